"""Agreement of people: of the team, of a person where asked, with intervals, and without any ranking."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.review.coaching import Rate, write_coaching
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import add_verdicts
from nsfwscan.verdicts.verdict import PersonVerdict
from tests.reports.test_html_in_browser import _CONTRAST

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


def verdict(reviewer: str, number: int, said: str, days: float = 1, **values: Any) -> PersonVerdict:
    at = (datetime.now(UTC) - timedelta(days)).isoformat()
    known = {"uri": f"/{number}", "sha256": f"{number:064x}", "kind": "review", "decided_at": at}
    return PersonVerdict.model_validate(
        {**known, "id": str(uuid.uuid4()), "reviewer": reviewer, "verdict": said, **values}
    )


def store(folder: Path) -> Store:
    """Ann is always right. Ben was, and for four weeks says `remove` of everything; one of his verdicts is old."""
    made = Store.at(str(folder / "store"), StorageConfig())
    given = [verdict("ann", n, "approve", 50 if n < 20 else 2) for n in range(40)]
    given += [verdict("Ben", n, "approve" if n < 20 else "remove", 50 if n < 20 else 2) for n in range(40)]
    given += [verdict("Ben", 100 + n, "remove", kind="golden") for n in range(4)]
    given += [
        verdict("ann", 100, "approve", kind="golden"),
        verdict("Ben", 500, "remove", 300),
        verdict("ann", 500, "approve", 300),
    ]
    given += [verdict("ann", 600, "escalate")]
    add_verdicts(made, given)
    return made


def test_figures_of_a_team_and_of_people(tmp_path: Path) -> None:
    """Pairs of verdicts on one content, and known answers; old ones are left out; who drifts is told, in the order of
    names."""
    made = store(tmp_path)
    golden = {f"/{100 + n}": "approve" for n in range(4)}
    out = Output.given(tmp_path / "page", StorageConfig(), "--out")
    told = write_coaching(made, out, golden, people=True)
    assert (told.team.agreement.hits, told.team.agreement.trials) == (20, 40)
    assert (told.team.golden.hits, told.team.golden.trials) == (1, 5)
    assert [person.name for person in told.people] == ["ann", "Ben"]
    assert (told.people[1].golden.hits, told.people[1].recent.trials) == (0, 24) and told.people[1].drifts
    assert told.team.agreement.low is not None and 0.3 < told.team.agreement.low < 0.5
    page = (tmp_path / "page" / "coaching.html").read_text(encoding="utf-8")
    assert page.index(">ann<") < page.index(">Ben<") and "Nobody is ranked" in page and "seconds" not in page


def test_the_command_names_nobody_unless_asked(tmp_path: Path) -> None:
    """The team alone by default; an answer that is none is refused; a store without verdicts says so."""
    store(tmp_path)
    (tmp_path / "golden.csv").write_text("uri,verdict\n/100,approve\n")
    given = [
        "coaching",
        str(tmp_path / "store"),
        "--golden",
        str(tmp_path / "golden.csv"),
        "--out",
        str(tmp_path / "c"),
    ]
    done = CliRunner().invoke(main, given)
    assert (
        done.exit_code == 0 and "the team: agreement 50.0% of 40" in done.output and "golden 50.0% of 2" in done.output
    )
    assert "ann" not in done.output and "ann" not in (tmp_path / "c" / "coaching.html").read_text(encoding="utf-8")
    assert "Ben: agreement" in CliRunner().invoke(main, [*given, "--people"]).output
    (tmp_path / "golden.csv").write_text("uri,verdict\n/100,maybe\n")
    assert "approve or remove" in CliRunner().invoke(main, given).output
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(main, ["coaching", str(tmp_path / "empty"), "--out", str(tmp_path / "c")])
    assert done.exit_code == 0 and "agreement not known" in done.output, done.output


def test_a_name_is_one_word_on_the_terminal(tmp_path: Path) -> None:
    """A reviewer's name makes no line of its own, and does not act on the terminal."""
    made = Store.at(str(tmp_path / "store"), StorageConfig())
    add_verdicts(made, [verdict("ann\nthe team: agreement 100 %\x1b[2J", 1, "approve")])
    shown = CliRunner().invoke(main, ["coaching", made.uri, "--people", "--out", str(tmp_path / "page")]).output
    assert "ann\\nthe team" in shown and "\x1b" not in shown and len(shown.splitlines()) == 3


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_in_a_browser(browser: BrowserContext, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing scrolls sideways, all text stands out."""
    write_coaching(store(tmp_path), Output.given(tmp_path / "page", StorageConfig(), "--out"), {}, people=True)
    page = browser.new_page()
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((tmp_path / "page" / "coaching.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.evaluate(_CONTRAST) == []
    page.close()


@pytest.mark.long
@pytest.mark.parametrize(("contents", "people", "clear"), [(60, 2, 0.3), (60, 4, 0.3), (40, 5, 0.2), (30, 3, 0.5)])
def test_intervals_cover(contents: int, people: int, clear: float) -> None:
    """Of a thousand teams, 93 to 97 % of the intervals hold the agreement of a very large one, also where several people
    decide each content, so that its pairs are alike: as if each pair were for itself, 73 % would."""
    random = np.random.default_rng(0)

    def pairs(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of people on each content, and those that say the same; contents are more or less clear."""
        asked = random.integers(2, people + 1, count)
        removing = random.binomial(asked, random.beta(clear, clear, count))
        same = (removing * (removing - 1) + (asked - removing) * (asked - removing - 1)) // 2
        return asked * (asked - 1) // 2, same

    all_pairs, all_same = pairs(400_000)
    true, held = all_same.sum() / all_pairs.sum(), 0
    for _ in range(1000):
        said = [
            (str(n), i < same) for n, (of, same) in enumerate(zip(*pairs(contents), strict=True)) for i in range(of)
        ]
        found = Rate.of(said)
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high
    assert 930 <= held <= 970, held
