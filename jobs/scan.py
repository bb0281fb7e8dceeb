"""What `ray job submit -- python jobs/scan.py SOURCE… --out STORE` starts: `nsfwscan scan`, nothing else."""

import sys
from pathlib import Path

# The code that was submitted, before a package that the cluster's image may have installed: the workers do the same.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nsfwscan.cli.main import scan

if __name__ == "__main__":
    scan()
