"""training/README.md says what the code does: its commands, options, files, figures and numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from nsfwscan.cli.main import main as scanning
from nsfwscan.schema import Category
from training.cli import main as training
from training.config import DataConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, click.Command] = {
    "nsfwscan": scanning,
    "nsfwscan-train": training,
    "jobs/train.py": training.commands["fit"],
    "jobs/evaluate.py": training.commands["evaluate"],
}


def commands() -> list[str]:
    """Every command of ours that README shows at a prompt, without its comment and without what submits it."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line[2:].split("  #")[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    ours = [re.sub(r"^ray job submit .* -- python ", "", line) for line in lines]
    return [line for line in ours if line.split()[0] in PROGRAMS]


@pytest.mark.parametrize("line", commands())
def test_commands_exist(line: str) -> None:
    """Every command in README parses: command, options and their values."""
    program, *arguments = shlex.split(line)
    command = PROGRAMS[program]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    with click.Context(command, info_name=command.name) as context:
        command.parse_args(context, arguments)


def test_options_exist() -> None:
    """Every option that README names is one of a command."""
    known = {opt for command in training.commands.values() for option in command.params for opt in option.opts}
    assert set(re.findall(r"(?<!-)--[a-z][a-z-]+", README)) <= known | {"--working-dir"}


def test_every_command_is_shown() -> None:
    """README shows each command of `nsfwscan-train`."""
    assert {line.split()[1] for line in commands() if line.startswith("nsfwscan-train ")} == set(training.commands)


def test_named_files_exist() -> None:
    """Every file, folder and test that README names is there; a name alone lies beside the one before it."""
    names: list[str] = []
    for row in README.split("| to change |")[1].splitlines()[2:]:
        _, edit, run = row.strip("| ").split(" | ")
        folder = ""
        for name in re.findall(r"`([\w/.]+)`", edit):
            folder = name.rsplit("/", 1)[0] if "/" in name else folder
            names.append(name if "/" in name else f"{folder}/{name}")
        names += re.findall(r"tests/[\w/.]+", run)
    assert len(names) > 30 and not [name for name in names if not (ROOT / name).exists()]


def test_numbers_are_the_defaults() -> None:
    """The shares, the distance and the categories in README are those of the configuration."""
    data = DataConfig(uris=("x",))
    shares = [1 - data.validation_share - data.test_share, data.validation_share, data.test_share]
    assert f"divided {'/'.join(f'{100 * share:.0f}' for share in shares)} into" in README
    assert f"`--similar-distance`, {data.similar_distance} of 256 bits" in " ".join(README.split())
    assert all(f"`{category}`" in README for category in Category)
