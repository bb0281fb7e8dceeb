"""The help of the command line: commands by what one wants to do, options by what they are about."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import click
import pytest
from click.testing import CliRunner

import nsfwscan.cli
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
    """Each that there is in the code is listed once, by its own name, with a first sentence that is not cut."""
    shown = shown_of(main)
    named = [name for section in SECTIONS.values() for name in section]
    assert [main.commands[name].name for name in named] == named
    modules = [import_module(f"nsfwscan.cli.{module.name}") for module in iter_modules(nsfwscan.cli.__path__)]
    there = {value for module in modules for value in vars(module).values() if isinstance(value, click.Command)}
    within = {
        one
        for group in there
        if isinstance(group, click.Group) and group is not main
        for one in group.commands.values()
    }
    assert sorted(str(one.name) for one in there - within - {main}) == sorted(named)
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


def test_a_command_imports_no_other() -> None:
    """The help of one needs the modules of that one: a scan does not wait for those of reviews."""
    script = (
        "import sys\nfrom nsfwscan.cli.main import main\nmain(['scan', '--help'], standalone_mode=False)\n"
        "print([name for name in ('review', 'calibrate', 'forget') if f'nsfwscan.cli.{name}' in sys.modules])\n"
        "main.commands['forget']\nprint('nsfwscan.cli.forget' in sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-2:] == ["[]", "True"]
