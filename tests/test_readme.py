"""Every page says what the code does: its columns, commands, options, files, links and examples."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig
from nsfwscan.demo.story import Demo
from nsfwscan.errors import ErrorCode
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import parse_policy
from nsfwscan.schema import GROUPS, column_doc
from nsfwscan.texts.patterns import ListContent

ROOT = Path(__file__).parents[1]
ROOMS = ("nsfwscan", "training", "jobs", "tests", "deploy")
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for room in ROOMS for page in sorted((ROOT / room).rglob("*.md")) if "templates" not in page.parts),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
README, INSIDE, RUNS = TEXTS["README.md"], TEXTS["nsfwscan/README.md"], TEXTS["nsfwscan/runs/README.md"]
COLUMNS = "nsfwscan/reports/README.md"
TABLES = ("columns", "error codes")
SUFFIXES = "py|md|yaml|json|html|css|toml|csv|txt|png|webp"


def table(name: str) -> str:
    """Return the rows of one of the page's tables, as the schema has them."""
    columns = [
        f"| {group if i == 0 else ''} | `{field.name}` | {column_doc(field)} |\n"
        for group, fields in GROUPS.items()
        for i, field in enumerate(fields)
    ]
    codes = [f"| `{code}` | `{code.status}` | {code.doc} |\n" for code in ErrorCode]
    return "".join({"columns": columns, "error codes": codes}[name])


def around(name: str) -> tuple[str, str, str]:
    """Return the page before one of its tables, the table's rows, and the page after it."""
    head, begin, rest = TEXTS[COLUMNS].partition(f"<!-- {name}: begin -->\n")
    rows, end, tail = rest.partition(f"<!-- {name}: end -->")
    return head + begin, rows, end + tail


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, also those inside a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def console_lines(text: str) -> list[str]:
    """Return every command that a page shows at a prompt, without its comment."""
    lines = [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def commands() -> list[tuple[str, str]]:
    """Return every command of ours that a page shows at a prompt, on its own or submitted as a job: the page, and the command."""
    found = []
    for page, text in TEXTS.items():
        for line in console_lines(text):
            job = re.search(r"python (jobs/\w+\.py .*)", line)
            if line.startswith(("nsfwscan ", "nsfwscan-train ")):
                found.append((page, line))
            elif job and not job[1].startswith("jobs/bench.py"):
                found.append((page, job[1]))
    return found


def examples(language: str) -> list[tuple[str, str]]:
    """Return every fenced block of a language: the page, and its text."""
    return [(page, block) for page, text in TEXTS.items() for block in blocks(text, language)]


def program(name: str) -> click.Command:
    """Return what a command line begins with."""
    from training.cli import main as train

    jobs = {f"jobs/{job}.py": train.commands[command] for job, command in (("train", "fit"), ("evaluate", "evaluate"))}
    return {"nsfwscan": main, "nsfwscan-train": train, "jobs/scan.py": main.commands["scan"], **jobs}[name]


def code(text: str) -> list[str]:
    """Return what a page writes in backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str) -> None:
    """The tables of columns and error codes are the schema's own documentation (`python -m tests.test_readme` writes
    them)."""
    assert around(name)[1] == table(name)


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_exist(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command on every page parses: command, options and their values. Files that it names are there."""
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(line)
    for argument in arguments:
        if re.fullmatch(rf"[\w/.-]+\.({SUFFIXES})", argument):
            Path(argument).parent.mkdir(parents=True, exist_ok=True)
            Path(argument).touch()
    command = program(name)
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    with click.Context(command, info_name=command.name, **main.context_settings) as context:
        command.parse_args(context, arguments)


@pytest.mark.parametrize(("page", "text"), examples("yaml"))
def test_yaml_loads(page: str, text: str) -> None:
    """Every YAML example is a policy in which nothing is wrong, a list of patterns, or a configuration."""
    content = yaml.safe_load(text)
    if "rules" in content:
        assert list(lint(parse_policy({"name": "readme", **content}))) == []
    elif "topics" in content:
        assert ListContent.of({**content, "version": str(content["version"])}).topics
    else:
        ScanConfig.load(None, {"source": {"uris": []}, "out": "", "model": {"uri": "./checkpoint"}, **content})


@pytest.mark.parametrize(("page", "text"), examples("python"))
def test_python_names_exist(page: str, text: str) -> None:
    """Every Python example compiles, and the names that it takes from us are there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(ROOMS):
            assert all(hasattr(import_module(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nsfwscan":
            assert hasattr(nsfwscan, node.attr)


@pytest.mark.parametrize("page", TEXTS)
def test_make_targets_exist(page: str) -> None:
    """Every make target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        target
        for words in re.findall(r"(?:^\$ |`)make ([a-z -]+)", TEXTS[page], re.MULTILINE)
        for target in words.split()
    }
    assert named <= targets


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    """Every link to a file or a heading of ours leads there."""
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        place, _, heading = target.partition("#")
        if place.startswith(("https://", "http://")):
            continue
        file = (ROOT / page).parent / place if place else ROOT / page
        text = file.read_text(encoding="utf-8") if heading and file.is_file() else ""
        headings = {anchor(name) for name in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        if not file.exists() or (heading and heading not in headings):
            lost.append(target)
    assert lost == []


def test_pictures_are_small() -> None:
    """The pictures that README shows load at once."""
    assert "](deploy/pictures/" in README
    assert all(picture.stat().st_size < 200_000 for picture in (ROOT / "deploy" / "pictures").iterdir())


@pytest.mark.parametrize("page", TEXTS)
def test_named_files_exist(page: str) -> None:
    """Every file, folder and test that a page names is there: from the root, from the page's folder, or by its name
    somewhere below that."""
    folder = (ROOT / page).parent
    words = {word.split("::")[0] for span in code(TEXTS[page]) for word in span.split()}
    rooted = {name for name in words if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w/.-]*", name)}
    modules = {name for name in words if re.fullmatch(r"[\w/]+\.py", name)}
    lost = [
        name
        for name in sorted(rooted | modules)
        if not (ROOT / name).exists() and not (folder / name).exists() and not any(folder.rglob(name))
    ]
    assert lost == []


def test_job_script_is_the_scan_command() -> None:
    """`python jobs/scan.py` is `nsfwscan scan`."""
    shown = subprocess.run(
        [sys.executable, "jobs/scan.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Scan SOURCES and commit a report to STORE." in shown.stdout


def test_the_balance_that_is_shown(tmp_path: Path) -> None:
    """The balance in README is that of the demo's first night."""
    demo = Demo(tmp_path / "demo")
    demo.prepare()
    balance = next(demo.nights()).record.balance
    terms = " + ".join(f"{count:,} {name}" for name, count in balance.model_dump().items() if name != "listed")
    shown = f"{balance.listed:,} listed = {terms}\n"
    assert shown in README
    assert shown in RUNS


def test_limit_of_the_reference_hash() -> None:
    """A page names the size up to which a PDQ hash is the reference's, to the bit."""
    from nsfwscan.images import pdq

    assert any(f"{pdq._MOST_PIXELS // 100_000 / 10} megapixels" in text for text in TEXTS.values())


def test_exit_codes() -> None:
    """The exit codes on the page of runs are those of the errors."""
    from nsfwscan import errors

    assert (errors.NsfwscanError.exit_code, errors.ConfigError.exit_code, errors.BalanceError.exit_code) == (1, 2, 3)
    assert errors.TooManyDeleted.exit_code == 6
    assert all(f"| **{code}** |" in RUNS for code in range(7))


def test_readme_is_read_in_two_minutes() -> None:
    """README is short, and says what it is for, how to install it, how to scan, and where to go on, in this order."""
    assert len(README.splitlines()) <= 130
    chapters = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert chapters[:4] == ["Install", "Scan", "What it does for you", "Where to go on"]


def test_a_newcomer_finds_the_folder() -> None:
    """At most fifteen words to learn; ten questions, each answered by a folder that is there."""
    words, questions = (INSIDE.split(f"## {chapter}\n")[1].split("\n## ")[0] for chapter in ("Words", "Ten questions"))
    assert 10 <= len(re.findall(r"^\| (?!word|---)", words, re.MULTILINE)) <= 15
    folders = re.findall(r"^\| .*\? \| `(\w+/)` \|$", questions, re.MULTILINE)
    assert len(folders) == 10
    assert all((ROOT / "nsfwscan" / folder).is_dir() for folder in folders)


def test_every_room_is_named() -> None:
    """The page about the inside links to every room; each has a page of its own, but for the demo."""
    rooms = {path.parent.name for path in (ROOT / "nsfwscan").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"\]\((\w+)\)", INSIDE))
    assert rooms - {page.split("/")[1] for page in TEXTS if page.startswith("nsfwscan/")} == {"demo"}


if __name__ == "__main__":
    for name in TABLES:
        head, _, tail = around(name)
        TEXTS[COLUMNS] = head + table(name) + tail
    (ROOT / COLUMNS).write_text(TEXTS[COLUMNS], encoding="utf-8")
