"""What `ray job submit -- python jobs/evaluate.py DATA… --model URI --out DIR` starts: `nsfwscan-train evaluate`."""

import sys
from pathlib import Path

# The code that was submitted, before a package that the cluster's image may have installed: the workers do the same.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.cli import evaluate

if __name__ == "__main__":
    evaluate()
