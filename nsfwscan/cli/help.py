"""Help texts in sections: the options of a command by what they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = {
    "Objects": "include exclude limit truth max_unmatched_truth allow links max_bytes max_requests_per_s anonymous "
    "requester_pays",
    "Models": "preset model labels detectors dtype batch_size compile cascade tiles",
    "Decoding": "max_pixels decode pdq screenshots c2pa c2pa_trust",
    "Text in pictures": "keep patterns block_hosts allow_hosts text_key",
    "Decisions": "policy shadow_policies banks save_images",
    "Reasons to stop": "max_error_rate max_unsupported_rate max_deleted_rate golden golden_tolerance accept_drift",
    "Evidence and messages": "anchor sign_key sign_command notify",
    "Stores on S3": "endpoint_url region profile sse sse_kms_key_id s3_compatibility s3_addressing",
}
"""Names of the options of each section."""
_LEAST = 3
"""Options that make a section; fewer stay among the others."""


class Command(click.Command):
    """A command whose help shows its own options first, and then those of each section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of the help."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        shown = {option.name: record for option in options if (record := option.get_help_record(ctx))}
        sections = {title: [name for name in names.split() if name in shown] for title, names in _OPTIONS.items()}
        sections = {title: names for title, names in sections.items() if len(names) >= _LEAST}
        placed = {name for names in sections.values() for name in names}
        for title, names in {"Options": [name for name in shown if name not in placed], **sections}.items():
            with formatter.section(title):
                formatter.write_dl([shown[name] for name in names])


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def command() -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command, as `click.command` does."""
    return click.command(cls=Command)


def group() -> Callable[[Callable[..., Any]], Group]:
    """Make a function a group of commands, as `click.group` does."""
    return click.group(cls=Group)
