"""Count how often the example lists of patterns fire on harmless text: `python -m tests.texts.harmless [FOLDER …]`.

The text is what ships with the packages of this machine: licences, changelogs, documentation, manual pages and the
messages of programs, in the languages that they come in; or what lies in folders of the caller's (UTF-8, a language's code
as the folder's name). It is cut into pages of 20 lines, since a picture's text is searched as a whole; each page counts
once. With `--pictures N`, so many of the pages are drawn, and so many of the project's chats and other pages are shown
by Chromium; all are read by `embedded:text`. `--show` names the patterns that were found, with what they were found in.

The table says of how many pages a topic has any score, and how many reach the score from which the policy `factory`
sends to review, with the exact 95 % interval (Clopper and Pearson 1934). Packages are written about programs, and with care:
the table says how often a list is wrong on such text. It says little of chats, and nothing of what a list finds.
"""

from __future__ import annotations

import argparse
import gettext
import gzip
import random
import re
import sys
import sysconfig
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from nsfwscan.config import StorageConfig
from nsfwscan.texts.patterns import EXAMPLES, PatternList, Search, read_list
from tests.later import later
from tests.texts.pages import page

stats = later("scipy.stats")

REVIEW = {"solicitation": 0.75, "extortion": 0.75, "self-harm": 0.55, "contact-spam": 0.75}
"""Scores from which the policy `factory` sends to review; tests/texts/test_harmless.py holds them to it."""
LINES, MOST, FEWER = 20, 1000, 100
"""Lines of a page; the most pages of one kind of text in a language that has a list, and in another one. More are sampled."""
_WIDE = 48
"""Letters in a line of a drawn page."""
_SEED = 20261127
_SHARE = Path("/usr/share")
_INSTALLED = Path(sysconfig.get_path("purelib"))
_NAMED = {
    "licences": ("copyright*", "licen[cs]e*", "copying*"),
    "changelogs": ("change*", "news*", "history*"),
    "documentation": ("readme*", "*.md", "*.rst", "faq*", "metadata"),
}
_KEPT_MACROS = re.compile(r"[.'](?:[BI]R?|RB|RI|SH|SS|Sh|Ss|Nd) +")
_ROFF = re.compile(r"\\f(?:\[\w*\]|\(..|.)|\\[&|^%]|\\\((?:em|en|bu|lq|rq|dq|aq|oq|cq)|\\s[+-]?\d")


@dataclass(frozen=True)
class Text:
    """A page of text; its kind, and the language that it ships as."""

    kind: str
    language: str
    text: str


def texts_of(folders: Sequence[Path] = ()) -> Iterator[Text]:
    """Yield pages of what ships with packages, or of the files of some folders; each text once."""
    found = (_of_folders(folders),) if folders else (_files(), _manuals(), _messages())
    there: set[str] = set()
    for one in chain(*found):
        if one.text not in there:
            there.add(one.text)
            yield one


def _of_folders(folders: Sequence[Path]) -> Iterator[Text]:
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield from _pages("given", folder.name, _read(path).splitlines())


def _files() -> Iterator[Text]:
    """Licences, changelogs and documentation of Debian's and of Python's packages, nearly all of it in English."""
    for path in sorted(
        chain((_SHARE / "doc").rglob("*"), (_SHARE / "common-licenses").iterdir(), _INSTALLED.rglob("*"))
    ):
        kind = "licences" if path.parent.name == "common-licenses" else _kind_of(path.name.lower())
        if (
            kind is not None
            and path.is_file()
            and not path.is_symlink()
            and path.suffix not in (".py", ".pyc", ".html")
        ):
            yield from _pages(kind, "en", _read(path).splitlines())


def _kind_of(name: str) -> str | None:
    return next((kind for kind, globs in _NAMED.items() if any(Path(name).match(glob) for glob in globs)), None)


def _manuals() -> Iterator[Text]:
    """Manual pages, in the language whose folder they lie in."""
    for path in sorted((_SHARE / "man").rglob("*.gz")):
        folder = path.parent.parent.name
        yield from _pages(
            "manual pages", "en" if folder == "man" else folder[:2], map(_plain, _read(path).splitlines())
        )


def _plain(line: str) -> str:
    """Return a line of a manual page without roff's commands; empty where it is one."""
    line = _KEPT_MACROS.sub("", line, count=1)
    return "" if line[:1] in (".", "'") else _ROFF.sub("", line).replace("\\-", "-").replace("\\(co", "©")


def _messages() -> Iterator[Text]:
    """What programs say: the catalogues of translations, and what they translate."""
    for path in sorted((_SHARE / "locale").rglob("*.mo")):
        try:
            with path.open("rb") as opened:
                catalogue = gettext.GNUTranslations(opened)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, IndexError):  # a catalogue that gettext cannot read
            continue
        said = [(key if isinstance(key, str) else key[0], text) for key, text in catalogue.items() if key]
        yield from _pages("messages", path.parts[4][:2], chain(*(text.splitlines() for _, text in said)))
        yield from _pages("messages", "en", chain(*(text.splitlines() for text, _ in said)))


def _read(path: Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return ""


def _pages(kind: str, language: str, lines: Iterable[str]) -> Iterator[Text]:
    full = (line.strip() for line in lines)
    full = (line for line in full if line)
    while part := list(islice(full, LINES)):
        yield Text(kind, language, "\n".join(part))


def sampled(texts: Iterable[Text]) -> list[Text]:
    """Return as many of each kind in each language as are looked at, the same ones each time."""
    kinds: defaultdict[tuple[str, str], list[Text]] = defaultdict(list)
    for one in texts:
        kinds[one.kind, one.language].append(one)
    draw, listed = random.Random(_SEED), {path.stem for path in EXAMPLES.glob("*.yaml")}
    most = {key: min(len(some), MOST if key[1] in listed else FEWER) for key, some in kinds.items()}
    return [one for key, some in kinds.items() for one in draw.sample(some, most[key])]


def read_from_pictures(texts: Sequence[Text], count: int) -> Iterator[Text]:
    """Yield what is read in drawn pages of some texts, and in chats and other pages that Chromium shows."""
    from nsfwscan.texts.ocr import Ocr
    from training.screenshots.fit import rendered
    from training.screenshots.pages import CHATS, OTHERS, chat, other

    draw = random.Random(_SEED)
    reader = Ocr(1)
    reader.open()
    latin = [one for one in texts if one.text.encode("latin-1", "ignore").decode("latin-1") == one.text]
    for one in draw.sample(latin, min(count, len(latin))):
        yield _as_read(reader, one.kind, one.language, _drawn(one.text))
    pages = [
        chat(draw.choice(CHATS), draw) if number % 2 else other(draw.choice(tuple(OTHERS)), draw)
        for number in range(count)
    ]
    for family, image in rendered(pages):
        yield _as_read(reader, family.partition("-")[0], "en", image)


def _drawn(text: str) -> Image.Image:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, _WIDE)][: 2 * LINES]
    return page(*lines, size=(1080, 24 + 60 * len(lines)))


def _as_read(reader: object, kind: str, language: str, image: Image.Image) -> Text:
    lines = reader.read(np.asarray(image))  # type: ignore[attr-defined]
    return Text(f"read in pictures: {kind}", language, "\n".join(line.text for line in lines))


def table(lists: Sequence[PatternList], texts: Sequence[Text]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| list | topic | text | pages (lines) | with any score | for review, with interval |\n|---|---|---|---:|---:|---:|"
    for one in lists:
        search, own = Search([one]), one.content.language
        scores = [(text, search(text.text)) for text in texts]
        for topic in one.content.topics:
            for name, mine in ((f"`{own}`", True), ("others", False)):
                there = [(text, found[topic]) for text, found in scores if (text.language == own) == mine]
                if there:
                    yield f"| `{one.uri}` | {topic} | {name} | {_row(topic, there)} |"


def _row(topic: str, scored: Sequence[tuple[Text, float]]) -> str:
    lines = sum(len(text.text.splitlines()) for text, _ in scored)
    review = sum(score >= REVIEW[topic] for _, score in scored)
    low, high = stats.binomtest(review, len(scored)).proportion_ci()
    some = sum(score > 0 for _, score in scored)
    return f"{len(scored):,} ({lines:,}) | {some:,} | {review:,} ({low:.3%} to {high:.3%})"


def found_in(lists: Sequence[PatternList], texts: Sequence[Text]) -> Iterator[str]:
    """Yield each pattern that was found, how often, and some of what it was found in."""
    counts, examples = Counter[tuple[str, ...]](), defaultdict[tuple[str, ...], list[str]](list)
    searches = {
        (one.uri, topic, group, pattern): Search([_only(one, topic, group, pattern)])
        for one in lists
        for topic, groups in one.content.topics.items()
        for group, patterns in groups.groups.items()
        for pattern in patterns
    }
    of_any = Search(lists)
    for text in (text for text in texts if any(of_any(text.text).values())):
        for key, search in searches.items():
            if search(text.text)[key[1]]:
                counts[key] += 1
                examples[key] += [line for line in text.text.splitlines() if search(line)[key[1]]][:1]
    for key, count in counts.most_common():
        yield f"{count:6} {' '.join(key)}"
        yield from (f"         {line[:140]}" for line in examples[key][:4])


def _only(one: PatternList, topic: str, group: str, pattern: str) -> PatternList:
    """Return a list with one of its patterns."""
    alone = one.content.topics[topic].model_copy(update={"groups": {group: (pattern,)}, "combine": (1.0,)})
    return PatternList(one.uri, one.text, one.content.model_copy(update={"topics": {topic: alone}}))


def main(given: Sequence[str]) -> None:
    """Print how much text there is, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args(given)
    lists = [read_list(f"example:{path.stem}", StorageConfig()) for path in sorted(EXAMPLES.glob("*.yaml"))]
    texts = sampled(texts_of(asked.folders))
    if asked.pictures:
        texts = list(read_from_pictures(texts, asked.pictures))
    kinds = Counter(one.kind for one in texts)
    print(", ".join(f"{count:,} pages of {kind}" for kind, count in kinds.items()))
    print(
        "languages:",
        ", ".join(f"{name} {count:,}" for name, count in Counter(one.language for one in texts).most_common()),
    )
    print("\n".join(found_in(lists, texts) if asked.show else table(lists, texts)))


if __name__ == "__main__":
    main(sys.argv[1:])
