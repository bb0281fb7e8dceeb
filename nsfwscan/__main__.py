"""`python -m nsfwscan`: the command line."""

from nsfwscan.cli import main

main()
