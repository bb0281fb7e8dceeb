"""`nsfwscan-train`: explore labelled images, fit a checkpoint to them, evaluate it. Parse, call, print.

Exit codes: 0 done; 1 could not; 2 wrong usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console

import nsfwscan
from nsfwscan.cli.console import echo, exit_codes
from nsfwscan.cli.help import Group
from nsfwscan.errors import ConfigError
from nsfwscan.execution.native_logs import mute_at_exit, without_native_chatter
from nsfwscan.text import printable_lines, redacted
from training.options import (
    data_config,
    data_options,
    evaluate_config,
    evaluate_options,
    storage_config,
    train_config,
    train_options,
)
from training.progress import shown_progress

quiet_option = click.option("--quiet", is_flag=True, help="Show no progress.")
verbose_option = click.option("--verbose", is_flag=True, help="Show tracebacks, and what Ray says.")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(nsfwscan.__version__, prog_name="nsfwscan-train")
def main() -> None:
    """Make a checkpoint that the scan trusts, from a folder of labelled images.

    \b
    nsfwscan-train explore DATA
    nsfwscan-train fit DATA --backbone URI --out CHECKPOINT
    nsfwscan-train evaluate DATA --model CHECKPOINT --out FOLDER
    """


@main.command()
@data_options
@click.option(
    "--out", metavar="FILE", default="explore.html", show_default=True, help="The page to write, here or in a store."
)
@click.option(
    "--model",
    metavar="URI",
    help="Checkpoint whose features tell likely label errors; default embedded:open-nsfw, `none` leaves them out.",
)
@click.option("--no-thumbnails", is_flag=True, help="No image on the page, not even blurred.")
@quiet_option
@verbose_option
def explore(out: str, model: str | None, no_thumbnails: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Look at DATA before learning from it: write a page, and beside it a table of all that was found.

    DATA is class folders, a zip of them, a table of uri and label, a file of reviewers' verdicts (local paths, s3://,
    any fsspec URI), or the hub's deepghs/nsfw_detect.
    """
    with _errors(Console(stderr=True), verbose):
        from training.explore.explore import explore as look

        config, storage = data_config(options), storage_config(options)
        with shown_progress(is_quiet=quiet) as progress:
            findings = look(config, storage, out, model=model, thumbnails=not no_thumbnails, progress=progress)
        for line in findings:
            echo(line)


@main.command()
@data_options
@train_options
@verbose_option
def fit(verbose: bool, **options: Any) -> None:
    """Train a checkpoint on DATA, for `nsfwscan scan --model`.

    The same command goes on where a stopped one was, from the last checkpoint in --out. DATA is as for explore.
    """
    with _on_ray(verbose) as stream:
        from training.fit.fit import describe, train

        config, data, storage = train_config(options), data_config(options), storage_config(options)

        def say(line: str) -> None:
            click.echo(printable_lines(redacted(line)), file=stream)

        echo(describe(train(config, data, storage, say, verbose=verbose)))


@main.command()
@data_options
@evaluate_options
@quiet_option
@verbose_option
def evaluate(quiet: bool, verbose: bool, **options: Any) -> None:
    """Measure a checkpoint on the images of DATA that are held out from training, by a scan.

    Give DATA, --seed and the shares that it was trained with. The same command goes on where a stopped one was.
    """
    with _on_ray(verbose) as stream:
        from training.evaluate.evaluate import evaluate as measure

        config, data, storage = evaluate_config(options), data_config(options), storage_config(options)
        scan = partial(nsfwscan.scan, verbose=verbose)
        with shown_progress(is_quiet=quiet, stream=stream) as progress:
            result = measure(config, data, storage, scan, progress)
        for line in result.describe():
            echo(line)


@main.command()
@click.argument("folder")
@verbose_option
def export(folder: str, verbose: bool) -> None:
    """Write model.onnx and model.onnx.json into the checkpoint directory FOLDER, if the scores are the checkpoint's.

    A scan takes it without torch: nsfwscan scan SOURCE --out STORE --model FOLDER/model.onnx.
    """
    with _errors(Console(stderr=True), verbose):
        from training.fit.onnx_export import export_onnx

        found = export_onnx(Path(folder))
        graph = f"{folder.rstrip('/')}/{found['file']}"
        echo(f"{graph} agrees with the checkpoint within {found['largest_difference']:.1e}")
        echo(f"a scan takes it with its sidecar, {found['sidecar']}: nsfwscan scan SOURCE --out STORE --model {graph}")


@contextmanager
def _errors(console: Console, verbose: bool) -> Iterator[None]:
    """Turn an error into one message and an exit code; also that the extra `train` is not installed."""
    with exit_codes(console, verbose, program="nsfwscan-train", again="the same command goes on where it stopped"):
        try:
            yield
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"nsfwscan-train needs the package {error.name}: pip install 'nsfwscan[train]'"
            ) from error


@contextmanager
def _on_ray(verbose: bool) -> Iterator[TextIO]:
    """Give the stream for our own lines, without Ray's."""
    if not verbose:
        mute_at_exit()
    with without_native_chatter(verbose=verbose) as stream, _errors(Console(stderr=True), verbose):
        yield stream


if __name__ == "__main__":
    main()
