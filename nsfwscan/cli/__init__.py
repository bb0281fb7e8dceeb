"""The command line. Its libraries load with the modules of this package, and sooner without collections between."""

from nsfwscan.execution.collecting import collect_rarely

collect_rarely()
