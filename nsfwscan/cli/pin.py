"""`nsfwscan pin`: pin the policy, the hash banks and the model of a report store."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from nsfwscan.api import load_config
from nsfwscan.cli.console import echo, exit_codes, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import pins_json, print_json
from nsfwscan.cli.options import bank_option, sections_of
from nsfwscan.cli.pin_text import describe_pins
from nsfwscan.config import merge
from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.models.registry import PRESETS
from nsfwscan.runs.pins import pin_history
from nsfwscan.storage.store import Store
from nsfwscan.workflows.pin import clear_pin, pin_settings


@command()
@click.argument("store")
@click.option("--policy", metavar="FILE|NAME", help="Policy to pin: a file, or the name of a preset.")
@bank_option
@click.option("--model", metavar="URI", help="Model to pin.")
@click.option(
    "--label", "labels", multiple=True, metavar="LABEL=CATEGORY", help="Map a label of the model. Repeatable."
)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Pin the model and the policy of a preset.")
@click.option("--config", metavar="FILE", help="Pin what a configuration (YAML) has of `policy`, `banks` and `model`.")
@click.option("--show", is_flag=True, help="Show what is pinned, and all pins before.")
@click.option("--clear", is_flag=True, help="Pin nothing any more; the history stays.")
@storage_options
@json_option
def pin(
    store: str, preset: str | None, config: str | None, show: bool, clear: bool, as_json: bool, **options: Any
) -> None:
    """Pin the policy, the hash banks and the model of a report STORE.

    A scan, match or replay that leaves an option out then goes by the pinned one; it stops where that cannot be read
    or was changed. One that is given another policy, bank or model says so loudly. Parts that are not given stay as
    they are pinned; all banks are pinned together.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command", as_json=as_json):
        sections = sections_of(options)
        given = [name for name in ("policy", "banks", "model") if name in sections] or preset or config
        if show + clear + bool(given) > 1:
            raise ConfigError("--show, --clear, and something to pin: one of them at a time")
        settings = load_config(preset, config, merge(sections, {"source": {"uris": ()}, "out": store}))
        place = Store.at(store, settings.storage)
        if clear:
            head = "cleared: nothing is pinned" if clear_pin(place) else "nothing is pinned"
        elif show:
            head = ""
        else:
            head = "pinned" if pin_settings(place, settings)[1] else "pinned already"
        history = pin_history(place)
        if as_json:
            print_json(pins_json(place.uri, history))
        else:
            echo(describe_pins(head, history))
        sys.exit(1 if history and isinstance(history[-1], BrokenRecord) else 0)
