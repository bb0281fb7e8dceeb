"""`summary.html` says what `run.json` says, to a person and in a browser, whatever the objects are called."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from nsfwscan.reports.html import percent, render_summary, visible
from nsfwscan.runs.changes import CHANGES_SCHEMA
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import to_json
from nsfwscan.text import duration, size
from tests.runs.rows import as_record

if TYPE_CHECKING:
    pass
from tests.reports.summaries import (
    HOSTILE,
    config,
    cost,
    delta_record,
    empty_record,
    files,
    nightly_record,
    over_record,
    page_of,
    record,
    replay_record,
)

_BLOCKS = {"p", "h1", "h2", "h3", "dt", "dd", "li", "th", "td", "caption", "b"}


class Elements(HTMLParser):
    """Elements of a page, its attributes, and the text that a person reads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.names[-1:] != ["style"]:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.words.append(" ")

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def text_of(made: dict[str, Any]) -> str:
    return Elements(page_of(made)).text


def poisoned(value: Any, poison: str) -> Any:
    """A record in which every string that is not a digest or an address has a hostile tail."""
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: poisoned(getattr(value, name), poison) for name in type(value).model_fields}
        )
    if isinstance(value, dict):
        return {key: poisoned(entry, poison) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(poisoned(entry, poison) for entry in value)
    return value + poison if isinstance(value, str) else value


def queries(made: dict[str, Any]) -> list[str]:
    """Return the SQL that the page tells a person to run."""
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", page_of(made), re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", block)) for block in blocks]


def test_hostile_names() -> None:
    """A URI that holds markup, quotes, control characters and an RTL override is text, and shows all of it."""
    page = page_of(record())
    elements = Elements(page)
    assert "<script" not in page.lower() and "script" not in elements.names and "img" not in elements.names
    assert (
        '<script>alert("owned")</script>\'"><img src=x onerror=alert(1)>\\nsecond line\\u202egpj.exe\\x1b[31m\\x00'
        in elements.text
    )
    assert not set("\u202e\x1b\x00") & set(page)
    assert 'title="U+202E RIGHT-TO-LEFT OVERRIDE"' in page


@pytest.mark.parametrize("make", [record, nightly_record, replay_record])
def test_hostile_everywhere(make: Callable[[], dict[str, Any]]) -> None:
    """No string of the record becomes markup, wherever it stands: names, versions, labels, rules, paths, messages."""
    clean = Elements(page_of(record()))
    page = render_summary(poisoned(as_record(make()), "\"'><b onclick=x>\u202e\x07\ud800"))
    dirty = Elements(page)
    added = set(dirty.names) - set(clean.names)
    assert not added and not [name for name, _ in dirty.attributes if name.startswith("on")]
    assert not set("\u202e\x07\ud800") & set(page)
    page.encode()


def test_hostile_keys() -> None:
    """A label, rule, queue or format that holds markup is text."""
    made = record()
    made["model"]["labels"] = {HOSTILE: "nsfw"}
    for name in ("label", "rule", "queue", "format"):
        made["summary"][name] = {HOSTILE: 3}
    made["summary"]["errors"] = []
    elements = Elements(page_of(made))
    assert "script" not in elements.names and "img" not in elements.names
    assert elements.text.count(r"\nsecond line") == 5


def test_self_contained() -> None:
    """The page has no script and no image, and refers to nothing but itself and the run's own files."""
    elements = Elements(page_of(record()))
    assert not {"script", "img", "iframe", "object", "embed", "video", "audio", "image"} & set(elements.names)
    references = [
        value for name, value in elements.attributes if name in ("href", "src", "srcset", "action", "xlink:href")
    ]
    assert [r for r in references if not r.startswith(("#", "./", "data:,"))] == []
    assert "url(" not in page_of(record()) and "@import" not in page_of(record())


@pytest.mark.parametrize("make", [record, nightly_record, replay_record])
def test_headings_and_tables(make: Callable[[], dict[str, Any]]) -> None:
    """Headings leave out no level, every table has a caption, every column head a scope, every id is there once."""
    page = page_of(record())
    elements = Elements(page)
    levels = [int(name[1]) for name in elements.names if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert elements.names.count("caption") == elements.names.count("table")
    assert page.count("<th ") + page.count("<th>") == page.count('<th scope="')
    ids = [value for name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in elements.attributes if name == "href" and value.startswith("#")} <= set(ids)


def test_says_what_the_record_says() -> None:
    """The verdict, the counts, the shares, the balance and the provenance stand on the page."""
    text, made = text_of(record()), record()
    assert (
        "Committed All 1,110,457 listed objects are accounted for. 21,099 are flagged for a person, and 1,773 could not be read."
        in text
    )
    assert "21,099 1.9% of all objects" in text and "3.1 TiB" in text and "205.6 images/s" in text
    assert (
        "1,110,457 listed = 1,095,800 scored + 0 matched + 0 duplicate + 0 filtered + 0 carried + 14,657 errored"
        in text
    )
    assert "1,204 listing entries repeated" in text
    assert made["model"]["sha256"] in text and made["policy"]["identity"] in text and "s3://media-eu/2026/11/" in text
    assert "confirmed214 of 19,980 neutral images: 1.1%" in text and "suspected96 flagged" in text


def test_over_the_error_rate() -> None:
    """A run over the error rate says so first, with the reason, and before any other thing to do."""
    text = text_of(over_record())
    headline = text.index(
        "Committed, but over the error rate 1,773 images could not be read, 0.2%, over --max-error-rate 0.1%"
    )
    assert headline < text.index("Too many images could not be read") < text.index("21,099 objects flagged")


def test_what_to_do() -> None:
    """Each kind of trouble has its advice; what did not happen has none."""
    text = text_of(record())
    for advice in ("nsfwscan doctor", "Vanished", "Damaged files", "--max-pixels", "They lie in false_positives/"):
        assert advice in text
    made = record()
    made["summary"]["status"] = {"ok": made["summary"]["status"]["ok"]}
    assert "doctor" not in text_of(made) and "Vanished" not in text_of(made)


def test_first_night() -> None:
    """A run that goes on from no other says nothing of earlier ones, of carried rows or of changes."""
    page, text = page_of(record()), text_of(record())
    assert 'id="since"' not in page and "#since" not in page
    assert "arried:" not in text and "looked at in this run" not in text and "Goes on from" not in text


def test_later_night() -> None:
    """A run that goes on from others says from which, what it carried and looked at, and what changed since."""
    text = text_of(nightly_record())
    assert "Since 20261121T031009Z The last run over these sources, together with 1 run before it." in text
    assert "unchanged, carried over 1,098,922 99.0% new 11,003 1.0% changed 17 <0.1% tried again 515" in text
    assert "deleted 20,113 not listed any more newly flagged 412" in text and "no longer flagged 3 flagged then" in text
    assert "3.1 TiB; 11,535 looked at in this run" in text
    assert "1,098,922 carried + 635 errored" in text and "Carried: not read again, since nothing changed;" in text
    assert f"Goes on from 20261121T031009Z, whose run.json has the SHA-256 {'5e' * 32}" in text
    assert "delta report" not in text


@pytest.mark.parametrize("part", [{"limit": 5}, {"include": ["*.jpg"]}, {"exclude": ["*.mp4"]}])
def test_listed_in_part(part: dict[str, Any]) -> None:
    """Where the sources were listed in part, no number is given for the objects that are gone."""
    made = nightly_record()
    made["config"]["source"] |= part
    assert "deleted – not known: the sources were listed in part newly flagged 412" in text_of(made)


def test_delta() -> None:
    """A delta report says that its counts are those of the whole listing and its files are not."""
    text = text_of(delta_record())
    assert "A delta report. The counts on this page speak for the whole listing." in text
    assert "hold only the 12,000 objects that were looked at, or decided differently, in this run" in text
    assert "the gravest first. In DuckDB, those that this delta report holds:" in text
    assert "All of their rows stand in the reports of earlier runs" in text, "it has no false_positives/"
    first = {**record(), "config": {**config(), "report": {**config()["report"], "mode": "delta"}}}
    assert "delta" not in text_of(first), "the first night's report is whole whatever was asked for"


def test_replay() -> None:
    """What a replay is, the whole of its policy, and what shadow policies would have decided."""
    text = text_of(replay_record())
    assert "nsfwscan replay" in text
    assert "The stored scores of that run, together with 1 run before it, decided again by another policy" in text
    assert "no image was read" in text and "no image was read" not in text_of(nightly_record())
    assert "$explicit 0.8" in text.replace("\xa0", " ")
    assert "region eu: $explicit 0.7; rule borderline: queue adult-eu, severity 4" in text
    assert "a sample of 0.05%, seed 7" in text and "skill calm" in text
    assert "review queue (adult and adult-eu)" in text
    assert "strict@0011223344556677 1,199 objects of 1,110,457 would be decided differently" in text
    assert "1,199 allow → review, for example" in text and "no queue" in text
    assert "Shadow policies" not in text_of(record())


def test_nothing_to_do() -> None:
    """A clean run with truth has nothing to do, and says so."""
    made = empty_record()
    made["summary"] |= {"rows": 5, "status": {"ok": 5}, "nsfw_score_histogram": [5] + [0] * 19}
    made["summary"]["truth"] |= {"by_category": {"neutral": 5}, "neutral": 5, "false_positive_rate": 0.0}
    text = text_of(made)
    assert "Nothing No object is flagged, and every image could be read." in text
    assert "confirmed0 of 5 neutral images: 0%" in text


def test_no_truth() -> None:
    """Without truth the page gives no rate, says that none is known, and how to give truth."""
    made = record()
    made["summary"]["truth"] = empty_record()["summary"]["truth"]
    text = text_of(made)
    assert (
        "No truth was given" in text and "--truth FILE" in text and "column truth" in text and "…/neutral/a.jpg" in text
    )
    assert "confirmed" not in text


def test_nothing_scanned() -> None:
    """A run over nothing, with None for every rate, is a page without divisions by zero."""
    text = text_of(empty_record())
    assert "What to do next Nothing was scanned" in text and "--truth FILE" not in text
    assert "Nothing was listed" in text and "no rate was measured" in text and "No object has a score." in text
    assert "None: every object could be read." in text and "None" not in text.replace("None:", "").replace("None.", "")


def test_resumed() -> None:
    """A resumed run says how much of it an earlier attempt did."""
    made = record()
    made["timings"]["resumed_shards"] = 4_000
    assert "205.6 images/s; 4,000 of 4,338 shards are from an earlier attempt" in text_of(made)
    made["timings"]["attempts"] = 2
    assert "205.6 images/s while scanning; all 2 attempts together" in text_of(made)
    assert "GPU-hours of all 2 attempts: USD 7.17" in text_of(made)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {},
            "122 core-hours and 1.53 GPU-hours: USD 7.17, USD 6.46 for a million objects read, by on-demand list prices",
        ),
        ({"steady": False}, "USD 6.46 for a million objects read (so few were read that the start counts), by"),
        ({"gpu_hours": 0.0, "per_million": None}, "122 core-hours: USD 7.17, by on-demand"),
        (
            {"amount": None, "per_million": None, "missing": "no price for a GPU of the kind B300 (gpu_hour)"},
            "GPU-hours: no price for a GPU of the kind B300 (gpu_hour), by on-demand list prices",
        ),
    ],
)
def test_cost(changes: dict[str, Any], shown: str) -> None:
    """The page says on which machines the run was made, what it cost, and by whose prices."""
    made = record() | {"cost": cost(**changes)}
    assert shown in text_of(made)
    assert "4 × 16 CPUs (AMD EPYC 7R13)" in text_of(made) and "1 × 16 CPUs, 1 × A10G" in text_of(made)


def test_cost_in_the_head() -> None:
    """Beside the time stands what the run cost, and what a million would: not where too few objects were read."""
    assert "images/s while scanning USD 7.17; USD 6.46 a million" in text_of(record())
    assert "images/s while scanning USD 7.17 " in text_of(record() | {"cost": cost(steady=False)})
    made = record()
    made["timings"]["resumed_shards"] = 7
    assert "GPU-hours of the last attempt: USD 7.17" in text_of(made)


def test_no_cost() -> None:
    """A run whose machines are not known says nothing of its cost."""
    made = record() | {"machine": None, "cost": None}
    assert "USD" not in text_of(made) and "Machines" not in text_of(made)


def test_many_files() -> None:
    """More than twenty files are folded away; fewer are not."""
    made = record()
    made["files"] = files("report", 21, 400_000)
    assert "<summary>21 files, 2.4 GiB</summary>" in page_of(made)
    assert "<summary>20 files" not in page_of({**made, "files": files("report", 20, 400_000)})


@pytest.mark.parametrize("parts", [1, 3, 21])
def test_query_runs(parts: int, tmp_path: Path) -> None:
    """The SELECT that the page gives runs as it stands, and finds what is flagged in the committed files only."""
    made = record()
    made["store"], made["files"] = str(tmp_path / "it's"), files("report", parts, 2)
    folder = tmp_path / "it's" / "runs" / made["run_id"]
    (folder / "report").mkdir(parents=True)
    (folder / "run.json").write_bytes(to_json(made))
    rows = [
        {"uri": uri, "decision": d, "severity": s}
        for uri, d, s in (("a", "review", 2), ("b", "allow", 0), ("c", "block", 3))
    ]
    table = pa.Table.from_pylist([dict.fromkeys(REPORT_SCHEMA.names) | row for row in rows], schema=REPORT_SCHEMA)
    for file in [*made["files"], {"path": "report/part-99999-orphan.parquet"}]:
        pq.write_table(table, folder / file["path"])
    with duckdb.connect() as connection:
        found = connection.execute(queries(made)[0]).fetchall()
    assert [row[-1] for row in found] == ["c"] * parts + ["a"] * parts


def test_changes_query_runs(tmp_path: Path) -> None:
    """The SELECT over the changes runs as it stands; where nothing changed, there is none."""
    made = nightly_record()
    made["store"] = str(tmp_path)
    (changes,) = (file for file in made["files"] if file["path"].startswith("changes/"))
    path = tmp_path / "runs" / made["run_id"] / changes["path"]
    path.parent.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist([dict.fromkeys(CHANGES_SCHEMA.names) | {"change": "deleted", "uri": "a"}], CHANGES_SCHEMA),
        path,
    )
    with duckdb.connect() as connection:
        (found,) = (q for q in queries(made) if "changes/" in q)
        assert connection.execute(found).fetchall() == [("deleted", None, None, None, None, "a")]
    made["files"].remove(changes)
    assert not [q for q in queries(made) if "changes/" in q]


def test_query_for_a_store() -> None:
    """A report on S3 is queried with the credentials of the environment, at the endpoint of the report store."""
    made = record()
    assert queries(made)[0].startswith("CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');")
    made["config"]["out_storage"] = {**made["config"]["storage"], "region": None}
    made["store_endpoint"] = "http://minio:9000"
    assert "ENDPOINT 'minio:9000', URL_STYLE 'path', USE_SSL false);" in queries(made)[0]


def test_record_is_left_alone() -> None:
    """Rendering changes nothing in the record, which is written to `run.json` afterwards."""
    made, before = as_record(record()), as_record(record()).as_json()
    render_summary(made)
    assert made.as_json() == before


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (percent, 0.0, "0%"),
        (percent, 1.0, "100%"),
        (percent, 0.00001, "<0.1%"),
        (percent, 0.99999, ">99.9%"),
        (percent, 0.125, "12.5%"),
        (percent, None, "–"),
        (size, 0, "0 B"),
        (size, 1023, "1,023 B"),
        (size, 1024, "1.0 KiB"),
        (size, 1024**2 - 1, "1.0 MiB"),
        (size, None, "–"),
        (duration, 0.0, "0.0 s"),
        (duration, 59.9, "59 s"),
        (duration, 249.2, "4 min 09 s"),
        (duration, 7502.0, "2 h 05 min"),
        (visible, "a&b", "a&amp;b"),
        (visible, None, "–"),
    ],
)
def test_formats(function: Callable[[Any], object], value: Any, shown: str) -> None:
    """Numbers read well at the edges: no share is rounded to nothing or to all, no unit overflows."""
    assert function(value) == shown


def test_models_beside_the_first() -> None:
    """The prefilter and the detectors are named with their weights, as the model is."""
    beside = {"name": "violence", "uri": "s3://models/violence", "sha256": "ab" * 32}
    text = text_of({**record(), "auxiliary_models": [beside]})
    assert "violence: s3://models/violence" in text and "ab" * 32 in text


def test_the_most_severe_objects_are_named() -> None:
    """Each has its severity, score, rule and queue; where nothing is flagged there is no such section."""
    page = page_of(record())
    section = page[page.index('id="severe"') : page.index("</section>", page.index('id="severe"'))]
    for said in ("The worst 2 of", "s3://media/a b.jpg", "0.988", "explicit", "adult", "s3://media/known.jpg", "–"):
        assert said in section
    made = record()
    made["summary"]["most_severe"] = []
    assert 'id="severe"' not in page_of(made)
