"""`nsfwscan-train` parses, says what is wrong in one line, and ends with the right code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.training.pictures import write, write_classes
from training.cli import main
from training.fit.config import TrainConfig
from training.options import data_config, evaluate_config, storage_config, train_config


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_explore_writes_a_page_and_a_table(tmp_path: Path) -> None:
    """Options reach the configuration; the page and the table stand where they were asked for."""
    root = write_classes(tmp_path / "data", {"neutral": 6, "cats": 6})
    options = ("--label", "cats=drawings", "--max-per-class", 5, "--model", "none", "--no-thumbnails")
    code, said, progress = run("explore", root, "--cache", tmp_path / "c", "--out", tmp_path / "out", *options)
    assert code == 0 and said.startswith("10 images in 2 classes; 0 unreadable\n")
    assert "examined 10 of 10" in progress
    page = (tmp_path / "out" / "explore.html").read_text(encoding="utf-8")
    assert "drawings" in page and "data:image" not in page
    assert (tmp_path / "out" / "explore.csv").is_file()


@pytest.mark.long
@pytest.mark.parametrize("command", ["explore .", "fit . --backbone . --out out", "evaluate . --model . --out out"])
def test_what_training_needs_is_named(tmp_path: Path, command: str) -> None:
    """Without the extra, each command says what to install."""
    script = "import sys; sys.modules['datasets'] = None; from training.cli import main; main()"
    words = [sys.executable, "-c", script, *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs the package datasets: pip install 'nsfwscan[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_one_message_and_a_code(tmp_path: Path) -> None:
    """Bad data is 1, wrong usage 2, and neither shows a traceback nor what a terminal would act on."""
    write(tmp_path / "data" / "viol\x1b[31mence" / "a.jpg", b"x")
    code, _, said = run("explore", tmp_path / "data", "--quiet")
    assert code == 1 and said.startswith("nsfwscan-train: ") and "viol" in said
    assert "\x1b" not in said and "Traceback" not in said
    code, _, said = run("explore", "x", "--validation-share", 0.6, "--test-share", 0.5)
    assert code == 2 and "leave nothing to train on" in said
    assert run("explore", "x", "--label", "cats")[0] == 2
    assert run("explore")[0] == 2


def test_help_is_quick() -> None:
    """Asking for help loads neither torch, Ray, datasets nor scikit-learn."""
    heavy = "{'torch', 'ray', 'datasets', 'sklearn', 'transformers'}"
    script = f"import training.cli, sys; print(sorted(set(sys.modules) & {heavy}))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_evaluate_says_what_is_wrong(tmp_path: Path) -> None:
    """A checkpoint that is not there is 1 before the data are read, a wrong option 2, each with one message."""
    code, _, said = run("evaluate", tmp_path / "data", "--model", tmp_path / "vit", "--out", tmp_path / "out")
    assert code == 1 and said.startswith("nsfwscan-train: ") and "no such model directory" in said
    options = ("--model", "embedded:open-nsfw", "--out", tmp_path / "out")
    assert run("evaluate", "x", *options, "--against-label", "a=porn")[0] == 2
    assert run("evaluate", "x", *options, "--model-label", "porn")[0] == 2
    assert run("evaluate", "x", "--out", tmp_path)[0] == 2


def test_both_doors_are_one() -> None:
    """The jobs take the options of the commands: they are the commands."""
    for job, command in (("train", "fit"), ("evaluate", "evaluate")):
        shown = subprocess.run([sys.executable, f"jobs/{job}.py", "--help"], capture_output=True, text=True, check=True)
        options = {name for option in main.commands[command].params for name in option.opts if name.startswith("--")}
        assert options and all(f" {name} " in shown.stdout for name in options)


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """Return the parameters of a command as it gets them."""
    found = main.commands[command]
    with click.Context(found) as context:
        found.parse_args(context, list(arguments))
        return context.params


def test_options_are_the_fields() -> None:
    """Each option reaches its field, defaults are the configuration's, and 0 epochs of patience mean none."""
    given = parsed("fit", "x", "--backbone", "b", "--out", "o", "--training-seed", "7", "--seed", "3", "--no-augment")
    config, data = train_config({**given, "patience": 0}), data_config(given)
    assert (config.seed, data.seed, config.augment, config.patience) == (7, 3, False, None)
    assert config.model_dump(exclude={"seed", "augment", "patience"}) == TrainConfig(backbone="b", out="o").model_dump(
        exclude={"seed", "augment", "patience"}
    )
    given = parsed(
        "explore", "x", "--max-bytes", "9", "--max-pixels", "8", "--label", "a=b=porn", "--s3-addressing=path"
    )
    data, storage = data_config(given), storage_config(given)
    assert (data.read.max_bytes, data.decode.max_pixels, data.labels) == (9, 8, {"a=b": "porn"})
    assert storage.s3_addressing == "path"
    given = parsed("evaluate", "x", "--model", "m", "--out", "o", "--model-label", "a=porn", "--no-thumbnails")
    assert evaluate_config(given).model.labels == {"a": "porn"} and not evaluate_config(given).thumbnails


@pytest.mark.parametrize("command", main.commands.values(), ids=list(main.commands))
def test_every_option_is_explained(command: click.Command) -> None:
    """Each option has a help text that is a sentence."""
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert options and all(option.help and option.help[0].isupper() and option.help[-1] == "." for option in options)
