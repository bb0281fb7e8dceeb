"""`nsfwscan calibrate`: make a model's scores probabilities, by what people said of drawn objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json
from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.models.calibration import Method
from nsfwscan.models.learned import in_words as learned_in_words
from nsfwscan.models.reliability import Interval
from nsfwscan.reports.calibration import render_calibration
from nsfwscan.runs.calibrations import FOLDER, HISTORY, Calibration
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural
from nsfwscan.workflows.calibrate import calibrate as calibrate_run


@command()
@click.argument("run")
@click.option(
    "--method",
    type=click.Choice(["temperature", "platt", "isotonic"]),
    help="Form of the map (default: temperature or platt for several classes, platt or isotonic for two, whichever has "
    "the least loss under cross-validation).",
)
@click.option(
    "--truth-probability",
    type=click.FloatRange(0, 1, min_open=True),
    help="With which the objects were drawn whose truth the report has (default: truth counts where all have it).",
)
@click.option("--page", metavar="FILE", help="Also write a page (HTML) with the reliability diagram, before and after.")
@click.option("--show", is_flag=True, help="Show the calibrations of a STORE; make none.")
@json_option
@storage_options
def calibrate(
    run: str,
    method: Method | None,
    truth_probability: float | None,
    page: str | None,
    show: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make the scores of RUN (STORE/runs/ID, or a STORE's newest) probabilities that people would remove an object.

    Only objects with a known probability of being looked at count: those of `nsfwscan audit draw`, by what people said
    of them, and truth. The map is fitted to half of them, measured on the others, and kept in the store. From then on
    scans and replays with the same model fill the column calibrated_score, which policies may use. Exit with 1 if too
    few are known, and say how many are needed.
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        if show:
            if method or truth_probability or page:
                raise ConfigError("--show makes no calibration: leave the other options out")
            _show(Store.at(run, storage), as_json)
            return
        target = None if page is None else Output.given(page, storage, "--page")
        scored = find_run(run, storage, complain)
        made = calibrate_run(scored, method, truth_probability)
        if target is not None:
            with target.appearing() as file:
                file.write_text(render_calibration(scored.store.uri, made), encoding="utf-8")
        if as_json:
            print_json({"exit_code": 0, **_json(made), "page": None if target is None else str(target)})
            return
        echo("\n".join(_described(made)))
        echo(f"kept in {scored.store.locate(FOLDER)}: the next scan or replay with this model fills calibrated_score")
        if target is not None:
            echo(f"page: {target}")


def _show(store: Store, as_json: bool) -> None:
    history = HISTORY.all(store)
    if as_json:
        found = [{"error": str(one)} if isinstance(one, BrokenRecord) else _json(one) for one in history]
        print_json({"exit_code": 0, "store": store.uri, "calibrations": found})
        return
    for one in history:
        lines = [f"broken: {one}"] if isinstance(one, BrokenRecord) else [*_described(one), f"made by {one.made_by}"]
        echo("\n  ".join(lines))
    if not history:
        echo(f"{store.uri} has no calibration")


def _described(made: Calibration) -> Iterator[str]:
    origin, fitted = made.origin, made.origin.objects - made.held_out
    yield f"calibration {made.number} of {made.model}: {made.map}, made {made.made_at[:10]}"
    yield (
        f"fitted to {plural(fitted, 'object')} and measured on {made.held_out:,} others, drawn by "
        f"{', '.join(origin.draws)}; people removed {origin.removed:,} of {origin.objects:,}"
    )
    yield f"expected calibration error {_line(made.before.ece)} before, {_line(made.after.ece)} after"
    gain = "" if made.gain.low > 0 else ": no better than before by more than chance"
    yield f"log loss {made.before.log_loss:.4f} before, {_line(made.gain)} less after{gain}"
    if made.map.steps:
        yield (
            f"{plural(made.map.steps, 'piece')} of the map are flat: objects there have the same calibrated_score; "
            "nsfw_score still tells them apart"
        )
    if origin.undecided:
        yield f"{plural(origin.undecided, 'drawn object')} are not decided yet: others of their strata stand for them"
    yield from learned_in_words(origin.learned, origin.unknown)
    for draw, why in origin.passed_over.items():
        yield f"draw {draw} does not count yet: {why}"


def _line(one: Interval) -> str:
    return f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})"


def _json(made: Calibration) -> dict[str, Any]:
    return {**made.model_dump(mode="json"), "sha256": made.sha256}
