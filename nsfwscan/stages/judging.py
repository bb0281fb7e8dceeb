"""Judge the text of pictures by a text classifier of the user's. The signals:

<detector>.<label>    probability of a label, the highest of all windows of the text
"""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
import pyarrow as pa

from nsfwscan.config import DetectorConfig, StorageConfig
from nsfwscan.models import registry
from nsfwscan.models.spec import Judge, ModelSpec
from nsfwscan.policy.gate import Gate
from nsfwscan.schema import COST, EACH_LINE, SIGNAL_COLUMNS
from nsfwscan.stages.base import Stage, gated, with_cost, with_signals
from nsfwscan.texts.lines import LINE


class JudgeText(Stage):
    """Asks a text classifier about the lines of text that a detector before it has read; codes are left out.

    Args:
        spec: its `name` and `labels` name the signals.
    """

    adds = pa.schema([*SIGNAL_COLUMNS, COST])
    needs: tuple[str, ...] = (EACH_LINE.name, "sha256")

    def __init__(self, spec: ModelSpec, config: DetectorConfig, storage: StorageConfig, *, threads: int) -> None:
        self.name = f"detect-{spec.name}"
        self._gate = Gate(spec.name, config) if config.when is not None else None
        self._spec, self._config, self._storage, self._threads = spec, config, storage, threads

    def open(self) -> None:
        """Load the weights."""
        _ = self._judge

    @cached_property
    def _judge(self) -> Judge:
        hardware = registry.choose_hardware(self._spec, self._config, threads=self._threads)
        return registry.load_judge(self._spec, self._storage, hardware)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the probabilities among its `signals`."""
        began = time.perf_counter()
        wanted, table = gated(table, self._gate, EACH_LINE.name)
        texts = [
            "\n".join(line["text"] for line in lines or () if line["kind"] == LINE)
            for lines in table[EACH_LINE.name].to_pylist()
        ]
        asked = np.array([bool(text.strip()) for text in texts], np.bool_)
        asked = asked if wanted is None else asked & wanted
        known: dict[str, dict[str, float]] = {}
        for row in np.flatnonzero(asked):
            if texts[row] not in known:
                scores = self._judge(texts[row])
                known[texts[row]] = {
                    f"{self._spec.name}.{label}": float(score)
                    for label, score in zip(self._spec.labels, scores, strict=True)
                }
        said = [known[text] if ask else None for text, ask in zip(texts, asked, strict=True)]
        return with_cost(with_signals(table, said), self.name, asked, time.perf_counter() - began)
