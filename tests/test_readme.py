"""README.md says what the code does: its columns, its commands, its options, its files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import parse_policy
from nsfwscan.schema import GROUPS, column_doc
from tests.demo_store import DemoObject

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- columns: begin -->\n", "<!-- columns: end -->"


def column_table() -> str:
    """The rows of README's column table, as the schema has them."""
    rows = [
        f"| {group if i == 0 else ''} | `{field.name}` | {column_doc(field)} |\n"
        for group, fields in GROUPS.items()
        for i, field in enumerate(fields)
    ]
    return "".join(rows)


def console_lines() -> list[str]:
    """Every command that README shows at a prompt, without its comment."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def test_column_table() -> None:
    """The column table is the schema's own documentation (`python -m tests.test_readme` writes it)."""
    assert README.split(BEGIN)[1].split(END)[0] == column_table()


@pytest.mark.parametrize("line", [line for line in console_lines() if line.startswith("nsfwscan ")])
def test_commands_exist(line: str) -> None:
    """Every nsfwscan command in README parses: command, options and their values."""
    command: click.Command = main
    arguments = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    with click.Context(command, info_name=command.name, **main.context_settings) as context:
        command.parse_args(context, arguments)


def test_the_policy_is_sound() -> None:
    """The policy that README shows loads, and nothing is wrong with it."""
    [text] = re.findall(r"```yaml\n(# policy.yaml.*?)```", README, re.DOTALL)
    assert list(lint(parse_policy({"name": "readme", **yaml.safe_load(text)}))) == []


def test_make_targets_exist() -> None:
    """Every make target that README names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target for words in re.findall(r"(?:^\$ |`)make ([a-z -]+)", README, re.MULTILINE) for target in words.split()
    }
    assert {"demo", "test"} <= named <= targets


def test_job_script_is_the_scan_command() -> None:
    """`python jobs/scan.py` is `nsfwscan scan`."""
    shown = subprocess.run(
        [sys.executable, "jobs/scan.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Scan SOURCES and commit a report to STORE." in shown.stdout


def test_named_files_exist() -> None:
    """Every file, folder and test that README names is there."""
    names = set(re.findall(r"\]\(([^)#]+)\)", README)) | set(
        re.findall(r"(?:nsfwscan|training|tests|jobs|deploy)/[\w/.]*\w", README)
    )
    outside = {name for name in names if not (ROOT / name).exists()}
    assert not outside


def test_the_balance_that_is_shown(demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """The balance in README is that of `make demo`."""
    result = nsfwscan.scan([str(demo[0])], out=str(tmp_path))
    balance = result.record["balance"]
    terms = " + ".join(f"{count:,} {name}" for name, count in balance.items() if name != "listed")
    assert f"\n{balance['listed']:,} listed = {terms}\n" in README


def test_limit_of_the_reference_hash() -> None:
    """README names the size up to which a PDQ hash is the reference's, to the bit."""
    from nsfwscan.images import pdq

    assert f"{pdq._MOST_PIXELS // 100_000 / 10} megapixels" in README


def test_order_of_chapters() -> None:
    """README goes from the promise to the table of changes, in the order in which a newcomer needs it."""
    chapters = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert chapters == [
        "Two commands",
        "What you get",
        "Your store, your model",
        "Every night",
        "On a cluster",
        "Your own checkpoint",
        "How it flows",
        "To change X, edit Y, run Z",
    ]


def test_exit_codes() -> None:
    """The exit codes in README are those of the errors."""
    from nsfwscan import errors

    assert (errors.NsfwscanError.exit_code, errors.ConfigError.exit_code, errors.BalanceError.exit_code) == (1, 2, 3)
    assert all(f"**{code}**" in README for code in range(5))


if __name__ == "__main__":
    head, rest = README.split(BEGIN)
    (ROOT / "README.md").write_text(head + BEGIN + column_table() + END + rest.split(END)[1], encoding="utf-8")
