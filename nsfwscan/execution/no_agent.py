"""A program that a local Ray starts in the place of its agents: it does nothing, and ends with the process that started
it. It runs alone, without this package: it is to start in milliseconds."""

import os
import time

if __name__ == "__main__":
    parent = os.getppid()
    while os.getppid() == parent != 1:
        time.sleep(1)
