"""What is computed in half precision on the way is whole at the end: in either precision, on any CPU, whatever `auto`
stands for here (torch computes bfloat16 on every CPU, on most of them slowly)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

import nsfwscan
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import ConfigError, RunConflict
from nsfwscan.execution.inline import run_inline
from nsfwscan.reports.progress import Silent
from nsfwscan.schema import score_column
from nsfwscan.workflows.scan import run_scan
from tests.later import later
from tests.training.conftest import Bench, Heard, Stopped
from tests.training.stand_in import LABELS, write_folders
from training.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from training.fit.fit import TrainingResult

pytestmark = pytest.mark.long

torch = later("torch")
evaluate = later("training.evaluate.evaluate")
trainer = later("training.fit.trainer")


PRECISIONS = ("float32", "bfloat16")
ROUNDING = 0.05
"""Of a probability, between bfloat16 (8 bits of mantissa) and float32, in a model of two layers."""


@dataclass(frozen=True)
class Made:
    """A small checkpoint, and what it was trained in."""

    precision: str
    outcome: TrainingResult

    def scan(self, media: Path, out: Path, dtype: str) -> dict[str, dict[str, object]]:
        settings = {"source": {"uris": [str(media)]}, "out": str(out), "model": {"uri": self.uri, "dtype": dtype}}
        result = run_scan(ScanConfig.load(None, settings), "test", run_inline, Silent())
        rows = [r for uri in result.report_files for r in pq.read_table(io.BytesIO(Path(uri).read_bytes())).to_pylist()]
        assert {(row["status"], row["accounted_as"]) for row in rows} == {("ok", "scored")}
        return {row["uri"]: row for row in rows}

    @property
    def uri(self) -> str:
        return self.outcome.uri


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def made(request: pytest.FixtureRequest, small_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp(request.param) / "checkpoint"
    return Made(request.param, small_bench.train(out, precision=request.param, checkpoint_steps=3))


def test_a_training_ends_in_a_checkpoint(made: Made) -> None:
    """A training in either precision ships a checkpoint, whose scores were compared with the model's in float32."""
    record = made.outcome.record
    assert record["hardware"]["precision"] == made.precision
    assert (Path(made.uri) / "model.safetensors").exists() and record["steps"] == 20


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_an_evaluation_measures_it(made: Made, small_bench: Bench, tmp_path: Path, dtype: str) -> None:
    """In float32 an evaluation counts what training.json says, whatever the training multiplied in; in bfloat16 it
    counts as many images, and differs on close calls alone."""
    config = EvaluateConfig.of({"model": {"uri": made.uri}, "out": str(tmp_path / "out"), "dtype": dtype})
    [model] = evaluate.evaluate(config, small_bench.data, StorageConfig(), nsfwscan.scan).record["models"]
    said = made.outcome.record["metrics"]["test"]
    counts = model["classes"]["confusion"]["counts"]
    assert np.sum(counts) == said["images"] == 20
    if dtype == "float32":
        assert counts == said["confusion"]
    else:
        assert np.abs(np.subtract(counts, said["confusion"])).sum() <= 2 * 2


def test_scan_and_classify_agree_in_each(made: Made, tmp_path: Path) -> None:
    """A scan in a precision gives the scores that `classify` gives in it, to the bit; bfloat16 those of float32 but for
    rounding, and not the very same."""
    media = write_folders(tmp_path / "media", each=2, seed=1)
    found = {dtype: made.scan(media, tmp_path / dtype, dtype) for dtype in PRECISIONS}
    columns = [score_column(label) for label in LABELS]
    full, half = (
        np.array([[row[column] for column in columns] for row in found[dtype].values()]) for dtype in PRECISIONS
    )
    assert list(found["float32"]) == list(found["bfloat16"])
    assert 0 < np.abs(full - half).max() <= ROUNDING
    assert len(full) == 10
    for dtype in PRECISIONS:
        for verdict in nsfwscan.classify(list(found[dtype]), model={"uri": made.uri, "dtype": dtype}):
            assert verdict.scores == {label: found[dtype][verdict.uri][score_column(label)] for label in LABELS}


class _Unshipped(Heard):
    """Ends a training when its last checkpoint is written, and nothing is shipped yet."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs, self._asked = epochs, 0

    def check_wanted(self) -> None:
        self._asked += len(self.epochs) == self._epochs
        if self._asked == 2:  # first before the last checkpoint, then before the directory
            raise Stopped("before the directory is written")


@pytest.mark.parametrize("stop", ["step 14 of", "at the end"])
def test_a_stopped_training_ends_the_same(made: Made, small_bench: Bench, tmp_path: Path, stop: str) -> None:
    """Stopped within an epoch, or with nothing left but to ship, it ends with the same weights and figures."""
    heard = _Unshipped(epochs=2) if stop == "at the end" else Heard(stop_at=stop)
    settings = {"precision": made.precision, "checkpoint_steps": 3}
    with pytest.raises(Stopped):
        small_bench.train(tmp_path / "out", heard, **settings)
    again = small_bench.train(tmp_path / "out", **settings).record
    assert again["attempts"] == 2
    assert (again["digest"], again["metrics"]) == (made.outcome.record["digest"], made.outcome.record["metrics"])


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_auto_goes_by_the_processor(
    small_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool
) -> None:
    """Without a GPU `auto` is bfloat16 where the CPU multiplies it in hardware and float32 elsewhere, even on a machine
    whose GPU is left alone; fp16 on a CPU is refused."""
    monkeypatch.setattr("training.fit.trainer.cpu_has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = "bfloat16" if has_bfloat16 else "float32"
    assert trainer.choose_precision(small_bench.config(tmp_path, precision="auto")) == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trainer.choose_precision(small_bench.config(tmp_path, precision="auto", use_gpu=False)) == wanted
    with pytest.raises(ConfigError, match="--precision float16 trains on a GPU only"):
        trainer.choose_precision(small_bench.config(tmp_path, precision="float16", use_gpu=False))


def test_another_precision_cannot_go_on(small_bench: Bench, tmp_path: Path) -> None:
    """A training that was begun in one precision goes on in that alone, and the message names the option."""
    with pytest.raises(Stopped):
        small_bench.train(tmp_path / "out", Heard(stop_at="step 5 of"), precision="bfloat16", checkpoint_steps=3)
    with pytest.raises(RunConflict, match=r"begun in bfloat16, .* go on in float32: give --precision bfloat16"):
        small_bench.train(tmp_path / "out", precision="float32", checkpoint_steps=3)
