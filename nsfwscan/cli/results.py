"""The last words of the commands that commit a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from nsfwscan.cli.console import complain, echo
from nsfwscan.cli.json_text import print_json, scan_json
from nsfwscan.cli.terminal import describe_scan
from nsfwscan.text import LogFormat

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult


def show_result(result: ScanResult, as_json: bool, form: LogFormat | None = None) -> NoReturn:
    """Print a committed run, and exit with its code."""
    if result.unproved is not None:
        complain(result.unproved, form)
    if as_json:
        print_json(scan_json(result))
    else:
        echo(describe_scan(result))
    sys.exit(result.exit_code)
