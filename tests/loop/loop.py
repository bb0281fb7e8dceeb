"""Run the whole loop by its commands, on generated pictures, with a real checkpoint and a real browser.

Scan; draw, and decide in the browser by keyboard; take the verdicts in; fine-tune on them; evaluate against the old
checkpoint; scan new uploads, audit them, calibrate, choose a threshold, replay, commit. Then what the policy misses and
sends to people is counted on pictures that nothing of this has seen. Patterns stand in for what nobody should have to
see: stripes and rings are to be removed, chessboards may stay. A command that fails is a `LoopError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from nsfwscan.cli.main import main as nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.run import find_run
from tests.later import later
from tests.training.stand_in import small_resnet, write_folders
from training.cli import main as nsfwscan_train
from training.config import DataConfig
from training.fit.config import TrainConfig

fit = later("training.fit.fit")


if TYPE_CHECKING:
    from playwright.sync_api import Page

    from training.fit.fit import Launch

Say = Callable[[str], None]
LABELS = ("neutral", "porn", "sexy")
FIRST, MEDIA, HELD_OUT = 12, 50, 150
"""Pictures of each pattern: that the first checkpoint learns from, in the media store and again in the new uploads, and
that only the end sees."""
MISS, CONFIDENCE = 0.1, 0.95
OPENED_EACH = 15
"""A reviewer opens the original of every fifteenth item."""
POLICY = """
version: "1"
thresholds: {block: 0.99, review: 0.05}
rules:
  - {name: explicit, when: "nsfw_score >= $block", decision: block, queue: adult, shield: blur, severity: 3}
  - {name: borderline, when: "nsfw_score >= $review", decision: review, queue: adult, shield: blur, severity: 2}
otherwise: {decision: allow}
"""


class LoopError(Exception):
    """A command of the loop failed; the message has what it printed."""


@dataclass(frozen=True)
class Side:
    """What a checkpoint and a policy do to the held-out pictures.

    Attributes:
        missed: pictures to be removed that are allowed.
        views: pictures that wait for a person.
    """

    missed: int
    views: int


@dataclass(frozen=True)
class Outcome:
    """What the loop came to.

    Attributes:
        bound: share of what people would remove that is missed at most, as `policy solve` said.
        removable, pictures: of the held-out ones.
        open_rate: share of the items that people opened.
    """

    bound: float
    removable: int
    pictures: int
    open_rate: float
    before: Side
    after: Side

    @property
    def closes(self) -> bool:
        """Whether no more is missed than the bound allows, and fewer opens are expected than before."""
        within = self.after.missed <= self.bound * self.removable
        return within and self.opens(self.after) < self.opens(self.before)

    def opens(self, side: Side) -> float:
        """Return the expected opens of a thousand pictures."""
        return 1000 * side.views / self.pictures * self.open_rate


class Loop:
    """The loop in one folder.

    Args:
        page: of a browser.
        launch: how to train; unset: on Ray, as `nsfwscan-train fit` does.
    """

    def __init__(self, folder: Path, page: Page, say: Say, launch: Launch | None = None) -> None:
        self.folder, self.page, self.say, self.launch = folder, page, say, launch
        self.reports, self.policy = folder / "reports", folder / "first.yaml"
        self.truth: dict[str, str] = {}

    def run(self) -> Outcome:
        """Run it, and return what it came to."""
        self._pictures()
        self.say("1. a first checkpoint, from few pictures")
        self._fit("first", self.folder / "blank", str(self.folder / "labelled"))
        self.say("2. scan")
        self._scan("media", "first", self.policy, run_id="night-1")
        self.say("3. draw what to label next; decide it in a browser")
        self._decided("label", "label", str(self.reports), "--n", "60")
        self.say("4. fine-tune on what people said, and evaluate")
        labels = self.folder / "verdicts.jsonl"
        self._command("verdicts", "export", self.reports, "--format", "labels", "--out", labels)
        self._fit("second", self.folder / "first", str(self.folder / "labelled"), str(labels))
        self._evaluate()
        self.say("5. scan new uploads, and audit them: a bound holds for what the checkpoint has not learned from")
        self._scan("uploads", "second", self.policy, run_id="night-2")
        self._decided("audit", "audit", "draw", str(self.reports), "--n", str(3 * MEDIA))
        self.say("6. calibrate, choose a threshold, replay, commit")
        self.say(self._command("calibrate", self.reports))
        solved = self.folder / "solved.yaml"
        asked = ("--miss", MISS, "--confidence", CONFIDENCE, "--threshold", "review", "--out", solved, "--json")
        found = json.loads(self._command("policy", "solve", self.reports, *asked))
        self.say(f"   ${found['threshold']} = {found['value']}: misses at most {found['bound']:.1%}")
        self._command("policy", "replay", self.reports, "--policy", solved, "--commit", "--run-id", "night-2-solved")
        self._command("verify", self.reports)
        self.say("7. the same on pictures that nothing has seen")
        before, after = self._side("first", self.policy), self._side("second", solved)
        rate = found["opens"] / found["views"] if found["views"] else 0.0
        return Outcome(found["bound"], 2 * HELD_OUT, 3 * HELD_OUT, rate, before, after)

    def _pictures(self) -> None:
        write_folders(self.folder / "labelled", FIRST, seed=1, labels=LABELS)
        write_folders(self.folder / "held-out", HELD_OUT, seed=2, labels=LABELS)
        self._unlabelled("media", seed=3)
        self._unlabelled("uploads", seed=4)
        small_resnet(self.folder / "blank")
        self.policy.write_text(POLICY, encoding="utf-8")

    def _unlabelled(self, name: str, *, seed: int) -> None:
        """Make a media store whose names tell nothing, and keep the truth of it."""
        made = self.folder / f"{name}-made"
        write_folders(made, MEDIA, seed=seed, labels=LABELS)
        (self.folder / name).mkdir()
        for number, picture in enumerate(sorted(made.rglob("*.png"), key=lambda path: path.name)):
            self.truth[f"{name}-{number:04}.png"] = picture.parent.name
            picture.rename(self.folder / name / f"{name}-{number:04}.png")

    def _command(self, *arguments: object, program: Any = nsfwscan) -> str:
        """Run a command in this process, and return its standard output."""
        words = [str(argument) for argument in arguments]
        done = CliRunner().invoke(program, words)
        if done.exit_code:
            raise LoopError(f"{' '.join(words)} ended with {done.exit_code}:\n{done.output}\n{done.exception or ''}")
        return done.stdout

    def _fit(self, name: str, backbone: Path, *data: str) -> None:
        out, cache = self.folder / name, self.folder / "cache"
        settings = {"epochs": 20, "batch_size": 16, "learning_rate": 5e-3, "precision": "float32"}
        if self.launch is not None:
            config = TrainConfig.of({"backbone": str(backbone), "out": str(out), **settings})
            fit.train(config, DataConfig(uris=data, cache=str(cache)), StorageConfig(), self.say, launch=self.launch)
            return
        options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
        self._command(
            "fit", *data, "--backbone", backbone, "--out", out, *options, "--cache", cache, program=nsfwscan_train
        )

    def _scan(self, media: str, model: str, policy: Path, *, out: Path | None = None, run_id: str) -> None:
        options = ("--model", self.folder / model, "--policy", policy, "--run-id", run_id, "--truth", "none")
        self._command("scan", self.folder / media, "--out", out or self.reports, *options)

    def _decided(self, name: str, *command: str) -> None:
        """Draw items, write their page, decide them on it, and take the verdicts in."""
        items, pack = self.folder / f"{name}.jsonl", self.folder / name
        self._command(*command, "--out", items)
        self._command("review", self.reports, "--items", items, "--originals", "--out", pack)
        file = self.folder / f"{name}-verdicts.jsonl"
        count = decide(self.page, pack / "index.html", self.truth, file)
        self.say(f"   {count} decided; {self._command('verdicts', 'import', self.reports, file).strip()}")

    def _evaluate(self) -> None:
        out = self.folder / "evaluation"
        models = ("--model", self.folder / "second", "--against", self.folder / "first", "--out", out)
        shares = ("--test-share", 0.8, "--no-thumbnails", "--cache", self.folder / "cache")
        self._command("evaluate", self.folder / "held-out", *models, *shares, program=nsfwscan_train)
        told = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
        right = {one["title"]: one["nsfw"]["accuracy"]["value"] for one in told["models"]}
        self.say("   " + ", ".join(f"{title}: {value:.1%} right" for title, value in right.items()))

    def _side(self, model: str, policy: Path) -> Side:
        out = self.folder / f"held-out-{model}"
        self._scan("held-out", model, policy, out=out, run_id="only")
        run = find_run(str(out), StorageConfig(), self.say)
        rows = [row for part in read_rows(run, run.record(), ["uri", "decision"]) for row in part.to_pylist()]
        decided = [(Path(row["uri"]).parent.name, row["decision"]) for row in rows]
        missed = sum(label != "neutral" and decision == "allow" for label, decision in decided)
        return Side(missed, sum(decision in ("review", "escalate") for _, decision in decided))


def decide(page: Page, pack: Path, truth: Mapping[str, str], out: Path) -> int:
    """Decide all items of a page by keyboard, open some originals, and download the verdicts.

    Args:
        truth: what each picture is, by the name of its file.
    """
    page.goto(pack.as_uri())
    page.fill("#reviewer", "ann")
    told = json.loads(page.locator("#pack").text_content() or "")
    for number, item in enumerate(told["items"]):
        page.locator("#list").focus()
        if number % OPENED_EACH == 0:
            page.keyboard.press("o")
            page.get_by_role("button", name="Show it").click()
            page.get_by_role("button", name="Cover it again").click()
        label = truth[Path(item["members"][0]["uri"]).name]
        page.keyboard.press("a" if label == "neutral" else str(told["categories"].index(label) + 1))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download verdicts").click()
    waiting.value.save_as(out)
    return len(told["items"])


def describe_outcome(found: Outcome) -> str:
    """Render what the loop came to."""
    missed, of = found.after.missed, found.removable
    return "\n".join(
        [
            f"missed  {missed:,} of {of:,} held-out pictures to be removed ({missed / of:.1%}); the bound is {found.bound:.1%}",
            f"views   {found.after.views:,} of {found.pictures:,}; {found.before.views:,} before",
            f"opens   {found.opens(found.after):,.1f} expected of a thousand; {found.opens(found.before):,.1f} before",
        ]
    )
