"""`python -m nsfwscan`: the command line."""

from nsfwscan.cli.main import main

main()
