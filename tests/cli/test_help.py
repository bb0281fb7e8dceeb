"""The help of the command line: commands by what one wants to do, options by what they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from nsfwscan.cli.help import _OPTIONS
from nsfwscan.cli.main import SECTIONS, main
from training.cli import main as train


def commands_of(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from commands_of(one, (*path, name))
    else:
        yield path, command


def shown_of(program: click.Command, *path: str) -> str:
    return CliRunner().invoke(program, [*path, "--help"], env={"COLUMNS": "100"}).stdout


def test_every_command_is_in_one_section() -> None:
    """Each is listed once, with a first sentence that is not cut."""
    shown = shown_of(main)
    named = [command.name for section in SECTIONS.values() for command in section]
    assert sorted(map(str, named)) == sorted(main.commands)
    assert re.findall(r"^  ([a-z]+)  ", shown.split("\nScan:\n")[1], re.M) == named
    assert [title for title in re.findall(r"^(\S.*):$", shown, re.M) if title != "Options"] == list(SECTIONS)
    assert "..." not in shown.split("\nScan:\n")[1]


@pytest.mark.parametrize("program", [main, train], ids=["nsfwscan", "nsfwscan-train"])
def test_every_option_is_shown_once(program: click.Command) -> None:
    """In its section or among the others, whatever the command."""
    for path, command in commands_of(program):
        shown = re.findall(r"^  (-[^ ,]+(?:, --\S+)?)", shown_of(program, *path).split("\nOptions:\n")[1], re.M)
        found = sorted(name.split(", ")[-1] for name in shown)
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        assert found == sorted([*(option.opts[-1] for option in options), "--help"]), path


def test_sections_name_options_that_there_are() -> None:
    """An option that was renamed would leave its section unseen."""
    known = {
        option.name for program in (main, train) for _, command in commands_of(program) for option in command.params
    }
    named = [name for names in _OPTIONS.values() for name in names.split()]
    assert len(set(named)) == len(named) and set(named) <= known


def test_the_options_of_a_scan_come_by_sections() -> None:
    """First what every scan needs, then the rest by what it is about; a command with few options has few sections."""
    titles = re.findall(r"^(\S.*):$", shown_of(main, "scan"), re.M)
    assert titles == ["Options", *_OPTIONS]
    assert shown_of(main, "scan").index("--out STORE") < shown_of(main, "scan").index("Objects:")
    assert re.findall(r"^(\S.*):$", shown_of(main, "runs"), re.M) == ["Options", "Stores on S3"]
