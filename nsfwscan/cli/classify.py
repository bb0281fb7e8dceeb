"""`nsfwscan classify`: score single images, without Ray and without a report."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from nsfwscan.api import classify as classify_images
from nsfwscan.api import load_config
from nsfwscan.cli.console import complain, echo, exit_codes, source_storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.options import model_options, reading_options, sections_of
from nsfwscan.cli.terminal import describe_classification
from nsfwscan.config import merge


@command()
@click.argument("images", nargs=-1, required=True)
@model_options
@reading_options
@source_storage_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def classify(
    images: tuple[str, ...], config: str | None, preset: str | None, as_json: bool, verbose: bool, **options: Any
) -> None:
    """Score single IMAGES (paths or URIs) immediately, without Ray."""
    with exit_codes(Console(stderr=True), verbose):
        sections = sections_of(options)
        found = classify_images(images, preset=preset, config=config, **sections)
        _say_unread(preset, config, sections)
        for classified in found:
            if as_json:
                click.echo(json.dumps(_shortened(asdict(classified))))  # for a program: the URI as the user gave it
            else:
                echo(describe_classification(classified))


def _say_unread(preset: str | None, config: str | None, sections: dict[str, Any]) -> None:
    """Say which patterns have letters that are never read in a picture."""
    from nsfwscan.texts.alphabet import unread_notes
    from nsfwscan.texts.patterns import read_list

    settings = load_config(preset, config, merge(sections, {"source": {"uris": ()}, "out": ""}))
    for note in unread_notes([read_list(uri, settings.storage) for uri in settings.text.patterns]):
        complain(f"note: {note}")


def _shortened(value: Any) -> Any:
    """Return a value whose numbers, all float32, are their shortest decimals."""
    from nsfwscan.reports.reading import shortest

    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(one) for one in value]
    return shortest(value) if isinstance(value, float) else value
