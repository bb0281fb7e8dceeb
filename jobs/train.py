"""Run `nsfwscan-train fit`, as `ray job submit -- python jobs/train.py DATA… --backbone URI --out DIR`."""

import sys
from pathlib import Path

# The submitted code comes before a package that the cluster's image may have installed; the workers do the same.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.cli import fit

if __name__ == "__main__":
    fit()
