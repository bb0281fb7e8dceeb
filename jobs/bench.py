"""Run the benchmark, as `make bench`, or as `python jobs/bench.py` on any machine."""

import sys
from pathlib import Path

# This checkout comes before a package that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.benchmark.cli import bench

if __name__ == "__main__":
    bench()
