"""An evaluation is a scan that is measured: its report agrees with training and with any other scan, and what is on the
page can be trusted, survives hostile names, and is there after a kill."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow.parquet as pq
import pytest

import nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.errors import BalanceError, ModelError, NsfwscanError, SourceError, StoreError
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import ScanResult
from tests import checkpoints
from tests.later import later
from tests.permissions import unprivileged
from tests.s3.servers import S3Endpoint
from tests.training.conftest import Bench, Stopped
from tests.training.stand_in import LABELS, write_folders
from training.config import DataConfig
from training.evaluate.config import EvaluateConfig

metrics = later("sklearn.metrics")
dataset = later("training.data.dataset")
evaluate = later("training.evaluate.evaluate")


if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from training.evaluate.evaluate import EvaluationResult
    from training.fit.fit import TrainingResult as Training

pytestmark = pytest.mark.long

HOSTILE = "<script>alert(1)<!--\"'><img src=x onerror=alert(2)>\u202egpj.png"
LOCAL = StorageConfig()
NSFW = ("hentai", "porn", "sexy")

Rows = list[dict[str, str]]


def evaluated(
    data: DataConfig, model: object, out: object, against: object = None, scan: Any = nsfwscan.scan, **settings: Any
) -> EvaluationResult:
    values = {"model": model if isinstance(model, dict) else {"uri": str(model)}, "out": str(out)}
    values |= {"dtype": "float32", **settings}  # not `auto`: the same scores on every CPU
    if against is not None:
        values["against"] = {"uri": str(against)}
    progress = settings.pop("progress", None)
    values.pop("progress", None)
    return evaluate.evaluate(EvaluateConfig.of(values), data, LOCAL, scan, *([progress] if progress else []))


def table(outcome: EvaluationResult, name: str) -> Rows:
    text = Store.at(outcome.uri, LOCAL).read(name).decode()
    return list(csv.DictReader(io.StringIO(text)))


def page_of(outcome: EvaluationResult) -> str:
    return Store.at(outcome.uri, LOCAL).read("evaluation.html").decode()


@dataclass(frozen=True)
class Small:
    """130 images, a quarter each for validation and test, with hostile names; and a checkpoint that guesses."""

    images: Path
    model: Path
    data: DataConfig

    def with_source(self, source: Path) -> DataConfig:
        return self.data.model_copy(update={"uris": (str(source),)})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    images = write_folders(folder / "images", each=26, seed=5)
    for path in sorted((images / "neutral").iterdir()):
        path.rename(path.with_name(f"{path.stem} {HOSTILE}"))
    data = DataConfig(uris=(str(images),), cache=str(folder / "cache"), validation_share=0.25, test_share=0.25)
    return Small(images, checkpoints.make_vit(folder / f"vit {HOSTILE}"), data)


@pytest.fixture(scope="module")
def good(bench: Bench, trained: Training, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    """Trained checkpoint, on the data that it was trained with; OUT lies in a folder called like a class."""
    return evaluated(bench.data, trained.uri, tmp_path_factory.mktemp("good") / "porn" / "evaluation")


@pytest.fixture(scope="module")
def compared(small: Small, trained: Training, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    """A checkpoint that guesses, against the trained one."""
    return evaluated(small.data, small.model, tmp_path_factory.mktemp("compared") / "out", trained.uri)


def test_it_agrees_with_training(trained: Training, good: EvaluationResult) -> None:
    """On PNGs, which a scan decodes as training does, the figures are those of training.json, and it is held out."""
    [model] = good.record["models"]
    test = trained.record["metrics"]["test"]
    assert model["classes"]["accuracy"]["value"] == pytest.approx(test["accuracy"])
    assert model["classes"]["macro_f1"]["value"] == pytest.approx(test["macro_f1"])
    assert model["classes"]["confusion"]["counts"] == test["confusion"]
    assert model["digest"] == trained.record["digest"] and model["held_out"]["is_known"]
    assert "may have learned" not in page_of(good)


def test_any_other_scan_says_the_same(bench: Bench, trained: Training, good: EvaluationResult, tmp_path: Path) -> None:
    """A plain scan of the original test files has the same labels and scores, row by row, to the bit."""
    split = dataset.prepare(bench.data, LOCAL).splits["test"]
    manifest = tmp_path / "test.csv"
    manifest.write_text("uri\n" + "".join(f"{uri}\n" for uri in split["uri"]))
    result = nsfwscan.scan(manifest, tmp_path / "out", model={"uri": trained.uri, "dtype": "float32"})
    rows = {row["uri"]: row for uri in result.report_files for row in pq.read_table(uri).to_pylist()}
    said = {row["uri"]: row for row in table(good, "predictions.csv") if row["split"] == "test"}
    assert rows.keys() == said.keys() and len(said) == 80
    for uri, row in rows.items():
        assert (row["label"], row["decision"]) == (said[uri]["label"], said[uri]["decision"])
        for name in ("confidence", "nsfw_score", *(f"score_{label}" for label in LABELS)):
            assert float(said[uri][name]) == row[name]


def test_figures_are_those_of_the_list(compared: EvaluationResult) -> None:
    """Accuracy, F1, precision, recall and AUC are scikit-learn's on predictions.csv."""
    for model in compared.record["models"]:
        rows = [r for r in table(compared, "predictions.csv") if (r["model"], r["split"]) == (model["title"], "test")]
        truth, said = [r["truth"] for r in rows], [r["label"] for r in rows]
        found = model["classes"]
        assert found["images"] == len(rows) == sum(map(sum, found["confusion"]["counts"]))
        assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, said))
        assert found["macro_f1"]["value"] == pytest.approx(
            metrics.f1_score(truth, said, average="macro", zero_division=0)
        )
        expected = metrics.precision_recall_fscore_support(truth, said, labels=list(LABELS), zero_division=0)
        for name, precision, recall, f1, images in zip(LABELS, *expected, strict=True):
            of_class = found["by_class"][name]
            assert (of_class["precision"]["value"] or 0) == pytest.approx(precision)
            assert of_class["recall"]["value"] == pytest.approx(recall)
            assert of_class["f1"]["value"] == pytest.approx(f1) and of_class["images"] == images
        is_nsfw = [t in NSFW for t in truth]
        scores = [float(r["nsfw_score"]) for r in rows]
        assert model["nsfw"]["curves"]["nsfw"]["roc"]["area"] == pytest.approx(metrics.roc_auc_score(is_nsfw, scores))


def test_nothing_is_copied_but_false_positives(good: EvaluationResult, compared: EvaluationResult) -> None:
    """The images are scanned where they lie: of OUT's files, only the scan's copies of false positives are images."""
    for outcome in (good, compared):
        assert {path.name for path in Path(outcome.uri).iterdir()} == {
            *("evaluation.html", "evaluation.json", "predictions.csv", "false_positives.csv", "scan"),
        }
        assert json.loads((Path(outcome.uri) / "evaluation.json").read_text()) == outcome.record
        images = {str(path) for path in Path(outcome.uri).rglob("*.png")}
        said = table(outcome, "predictions.csv")
        wrong = {(row["model"], row["uri"]) for row in said if row["truth"] == "neutral" and row["label"] in NSFW}
        assert len(images) == len(wrong)
        assert {row["image"] for row in table(outcome, "false_positives.csv")} <= images


def test_every_false_positive_is_there(compared: EvaluationResult) -> None:
    """All neutral test images with an NSFW label, ranked by confidence, each with its saved copy and its scores."""
    said = [row for row in table(compared, "predictions.csv") if row["split"] == "test"]
    wrong = {(r["model"], r["uri"]) for r in said if r["truth"] == "neutral" and r["label"] in NSFW}
    listed = table(compared, "false_positives.csv")
    assert wrong and {(row["model"], row["uri"]) for row in listed} == wrong and len(listed) == len(wrong)
    for title in {row["model"] for row in listed}:
        own = [row for row in listed if row["model"] == title]
        assert [int(row["rank"]) for row in own] == list(range(1, len(own) + 1))
        assert [row["confidence"] for row in own] == sorted((r["confidence"] for r in own), key=float, reverse=True)
    for row in listed:
        assert hashlib.sha256(Path(row["image"]).read_bytes()).hexdigest() == row["sha256"]
        assert float(row["score_neutral"]) < float(row["confidence"]) and row["format"] == "PNG"
    counts = [model["false_positive_rate"]["false_positives"] for model in compared.record["models"]]
    assert sum(counts) == len(listed)


def test_two_checkpoints(compared: EvaluationResult, trained: Training) -> None:
    """Side by side: what only one gets right is counted, tested and listed; the trained one wins."""
    first, second = compared.record["models"]
    found = compared.record["comparison"]["classes"]
    alone = [
        row["model"]
        for row in table(compared, "predictions.csv")
        if row["split"] == "test" and row["only_right"] == "yes"
    ]
    assert (alone.count(first["title"]), alone.count(second["title"])) == (found["only_first"], found["only_second"])
    assert found["difference"]["high"] < 0 and found["p_value"] < 0.01
    assert found["difference"]["value"] == pytest.approx(
        first["classes"]["accuracy"]["value"] - second["classes"]["accuracy"]["value"]
    )
    page = page_of(compared)
    assert "checkpoint is better than vit" in page and page.count('<polyline class="curve s1"') > 2
    assert second["digest"] == trained.record["digest"]


def test_what_may_have_been_learned_from(compared: EvaluationResult) -> None:
    """Other data than the checkpoint was trained with, or no record of it: the page warns, and says why."""
    first, second = compared.record["models"]
    assert not first["held_out"]["is_known"] and "no training.json" in first["held_out"]["why"]
    assert not second["held_out"]["is_known"] and "trained on other images" in second["held_out"]["why"]
    assert page_of(compared).count("it may have learned from these images") == 2


def test_names_are_text(compared: EvaluationResult) -> None:
    """Hostile names of files and of a checkpoint are shown, spelled out, and are no markup."""
    page = page_of(compared)
    assert "<script" not in page and "onerror=alert(2)>" not in page
    assert "&lt;script&gt;alert(1)&lt;!--" in page and "\\u202egpj.png" in page


def test_without_thumbnails_no_pixel_is_on_the_page(small: Small, compared: EvaluationResult, tmp_path: Path) -> None:
    """`--no-thumbnails` leaves no image in the file; otherwise each false positive has its two pictures."""
    assert page_of(compared).count("data:image/jpeg") == 2 * len(table(compared, "false_positives.csv"))
    page = page_of(evaluated(small.data, small.model, tmp_path / "out", thumbnails=False))
    assert "data:image" not in page and "It holds no picture" in page


def test_from_a_zip(small: Small, compared: EvaluationResult, tmp_path: Path) -> None:
    """Images in an archive are evaluated like files: the same division, the same figures, their own names."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(small.images.rglob("*.png")):
            archive.write(path, f"{path.parent.name}/{path.stem.split()[0]}.png")
    outcome = evaluated(small.with_source(tmp_path / "all.zip"), small.model, tmp_path / "out")
    assert outcome.record["data"]["fingerprint"] == compared.record["data"]["fingerprint"]
    assert outcome.record["models"][0]["classes"] == compared.record["models"][0]["classes"]
    assert all(row["uri"].startswith("zip://") for row in table(outcome, "predictions.csv"))


def test_on_s3(small: Small, compared: EvaluationResult, moto: S3Endpoint) -> None:
    """OUT may be a bucket: the same files and figures are there, the copies of false positives too, the others not."""
    boto3.client("s3").create_bucket(Bucket="evaluations")
    outcome = evaluated(small.data, small.model, "s3://evaluations/vit")
    assert outcome.record["models"][0]["classes"] == compared.record["models"][0]["classes"]
    store = Store.at("s3://evaluations/vit", LOCAL)
    assert store.names("") == ["evaluation.html", "evaluation.json", "false_positives.csv", "predictions.csv", "scan"]
    for row in table(outcome, "false_positives.csv"):
        image = store.read(row["image"].removeprefix("s3://evaluations/vit/"))
        assert hashlib.sha256(image).hexdigest() == row["sha256"]


class Killed:
    """Scans, and is killed: `before` any image is scored, or `after` the report is there."""

    def __init__(self, when: str) -> None:
        self.when = when
        self.results: list[ScanResult] = []

    def __call__(self, *given: Any, **sections: Any) -> ScanResult:
        if self.when == "before":
            raise Stopped
        self.results.append(nsfwscan.scan(*given, **sections))
        if self.when == "after":
            raise Stopped
        return self.results[-1]


def stop_at(word: str, done: int) -> Callable[[str, int, int], None]:
    def progress(what: str, at: int, total: int) -> None:
        if what.startswith(word) and at >= done:
            raise Stopped

    return progress


def test_killed_anywhere_it_goes_on(small: Small, compared: EvaluationResult, tmp_path: Path) -> None:
    """Killed before the scan, within it, after it and before the page, it ends as if never; nothing is scanned twice."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        evaluated(small.data, small.model, out, scan=Killed("before"))
    with pytest.raises(Stopped):
        evaluated(small.data, small.model, out, progress=stop_at("scanned with", 1))
    staged = {path: path.stat().st_mtime_ns for path in out.rglob("staging/*/*.arrow")}
    assert staged and not list(out.rglob("run.json"))
    with pytest.raises(Stopped):
        evaluated(small.data, small.model, out, scan=Killed("after"))
    with pytest.raises(Stopped):
        evaluated(small.data, small.model, out, progress=stop_at("drawn", 0))
    assert not (out / "evaluation.html").exists()
    again = Killed("never")
    outcome = evaluated(small.data, small.model, out, scan=again)
    assert [result.already_committed for result in again.results] == [True]
    assert outcome.record["models"][0]["classes"] == compared.record["models"][0]["classes"]
    assert (out / "evaluation.html").exists()


def test_images_without_a_score(small: Small, tmp_path: Path) -> None:
    """Images that the scan could not score are in no figure; they are counted, named and listed."""

    def strict(*given: Any, **sections: Any) -> ScanResult:
        return nsfwscan.scan(*given, **sections | {"decode": {"max_pixels": 5600}})

    outcome = evaluated(small.data, small.model, tmp_path / "out", scan=strict)
    [model] = outcome.record["models"]
    bad = [row for row in table(outcome, "predictions.csv") if row["status"] == "too_large"]
    assert all(row["nsfw_score"] == row["label"] == row["right"] == "" and "pixels" in row["error"] for row in bad)
    unscored = model["unscored"]
    assert unscored["validation"]["count"] + unscored["test"]["count"] == len(bad) > 5
    assert unscored["test"]["by_status"] == {"too_large": unscored["test"]["count"]}
    assert model["classes"]["images"] + unscored["test"]["count"] == unscored["test"]["images"]
    assert f"{len(bad)} images without a score" in page_of(outcome)


def test_a_binary_checkpoint(small: Small, tmp_path: Path) -> None:
    """Against open_nsfw, which knows two classes, NSFW is compared with safe, and categories are not applicable to it."""
    outcome = evaluated(small.data, small.model, tmp_path / "out", "embedded:open-nsfw")
    first, second = outcome.record["models"]
    assert first["classes"] and second["classes"] is None and second["nsfw"]["images"] == first["nsfw"]["images"]
    assert outcome.record["comparison"]["classes"] is None and outcome.record["comparison"]["nsfw"]["images"]
    page = page_of(outcome)
    assert "Not applicable to open-nsfw" in page and "one of them does not know the categories" in page
    assert {row["right"] for row in table(outcome, "predictions.csv") if row["model"] == "open-nsfw"} == {""}


def test_data_on_one_side(small: Small, trained: Training, tmp_path: Path) -> None:
    """Data without any NSFW image leave recall, curves and thresholds unknown, and nothing fails."""
    images = write_folders(tmp_path / "safe", each=6, labels=("drawings", "neutral"))
    outcome = evaluated(small.with_source(images), trained.uri, tmp_path / "out", small.model)
    for model in outcome.record["models"]:
        assert model["nsfw"]["by_class"]["nsfw"]["recall"]["value"] is None
        assert all(point["chosen"] is None and point["read_off"] is None for point in model["operating_points"])
        assert model["classes"]["by_class"]["porn"]["images"] == 0
    assert "all on one side" in page_of(outcome) and "no threshold could be chosen" in page_of(outcome)


def never(*_: Any, **__: Any) -> ScanResult:
    raise AssertionError("nothing should be scanned")


def test_what_is_refused_before_anything_is_scanned(small: Small, trained: Training, tmp_path: Path) -> None:
    """A checkpoint that is not there, does not know the data's categories, or is the other one; data that are not: said
    before any image is read."""
    out = tmp_path / "out"
    four = checkpoints.make_vit(tmp_path / "four", labels=("neutral", "hentai", "porn", "sexy"))
    for model, against, data, error, message in (
        (tmp_path / "nothing", None, "nothing", ModelError, "no such model directory"),
        (small.model, tmp_path / "nothing", "nothing", ModelError, "no such model directory"),
        (trained.uri, trained.uri, "nothing", ModelError, "the same weights"),
        (small.model, None, "nothing", SourceError, "no such file or directory"),
        (four, None, small.images, ModelError, "does not know 'drawings', which the data have"),
    ):
        fresh = DataConfig(uris=(str(tmp_path / data),), cache=str(tmp_path / "cache"))
        with pytest.raises(error, match=message):
            evaluated(fresh, model, out, against, scan=never)
    assert not (tmp_path / "cache").exists()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with unprivileged(), pytest.raises(StoreError, match="cannot write"):
        evaluated(small.data, "embedded:open-nsfw", closed / "out", scan=never)


def test_an_unknown_label_can_be_explained(small: Small, tmp_path: Path) -> None:
    """`--model-label` says what a checkpoint's own word means."""
    labels = ("art", "hentai", "neutral", "porn", "sexy")
    model = checkpoints.make_vit(tmp_path / "vit", labels=labels)
    with pytest.raises(ModelError, match="unknown label 'art'"):
        evaluated(small.data, model, tmp_path / "out", scan=never)
    explained = {"uri": str(model), "labels": {"art": "drawings"}}
    outcome = evaluated(small.data, explained, tmp_path / "out")
    assert outcome.record["models"][0]["labels"]["art"] == "drawings" and outcome.record["models"][0]["classes"]


def test_a_report_that_is_not_about_these_images(small: Small, tmp_path: Path) -> None:
    """Images that somebody changed before they were scanned are noticed; so is a scan that does not balance."""
    images = tmp_path / "images"
    shutil.copytree(small.images, images)

    def changed(manifest: str, *given: Any, **sections: Any) -> ScanResult:
        path = Path(pq.read_table(manifest)["uri"][0].as_py())
        path.write_bytes(path.read_bytes() + b"\0")
        return nsfwscan.scan(manifest, *given, **sections)

    with pytest.raises(StoreError, match="is not about these images"):
        evaluated(small.with_source(images), small.model, tmp_path / "changed", scan=changed)

    def unbalanced(*_: Any, **__: Any) -> ScanResult:
        raise BalanceError("1 object has no row")

    with pytest.raises(NsfwscanError, match="does not balance: 1 object has no row"):
        evaluated(small.data, small.model, tmp_path / "unbalanced", scan=unbalanced)


def test_what_a_person_is_told(compared: EvaluationResult) -> None:
    """At the end: the main figures with their intervals, doubts, and where everything lies."""
    said = "\n".join(compared.describe())
    assert "test images, accuracy" in said and "neutral images called NSFW" in said and "(McNemar)" in said
    assert f"the page: {compared.uri}/evaluation.html" in said and "it may have learned from these images" in said


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(compared: EvaluationResult, browser: BrowserContext, width: int) -> None:
    """Nothing is asked for but the page, nothing complains, nothing sticks out; pictures are clear only when opened."""
    opened = browser.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.set_viewport_size({"width": width, "height": 900})
    page = (Path(compared.uri) / "evaluation.html").as_uri()
    opened.goto(page)
    assert [url for url in requests if not url.startswith("data:")] == [page]
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    for chart in opened.locator("figure.chart:visible svg[role=img]").all():
        box = chart.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    first = opened.locator("details.reveal").first
    clear = first.locator(":scope > .picture img")
    assert first.locator("summary img").is_visible() and not clear.is_visible()
    first.locator("summary").click()
    assert clear.is_visible() and clear.evaluate("image => image.naturalWidth") > 0
    assert complaints == []
    opened.close()
