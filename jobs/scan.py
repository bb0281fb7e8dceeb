"""Run `nsfwscan scan`, as `ray job submit -- python jobs/scan.py SOURCE… --out STORE`."""

import sys
from pathlib import Path

# The submitted code comes before a package that the cluster's image may have installed; the workers do the same.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nsfwscan.cli.scan import scan

if __name__ == "__main__":
    scan()
