"""What `ray job submit -- python jobs/scan.py SOURCE… --out STORE` starts: `nsfwscan scan`, nothing else."""

from nsfwscan.cli import scan

if __name__ == "__main__":
    scan()
