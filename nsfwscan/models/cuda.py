"""Run batches on CUDA, with copies hidden behind computation.

Two buffers take turns: while the model works on one, a stream of its own copies the next batch into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray

from nsfwscan.models.spec import Classifier


class Overlapped(Classifier):
    """A classifier on the current CUDA device.

    Args:
        forward: uint8 [batch, H, W, 3] to float32 probabilities [batch, labels], both on the device.
        shape: [batch, H, W, 3].
        guard: a context in which `forward` runs, which turns its errors into words.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        shape: tuple[int, ...],
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(lambda pixels: next(self.stream([pixels])))
        self._forward, self._guard = forward, guard
        self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._slots = [_Slot(shape) for _ in range(2)]

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities of each batch, in order, one batch later than it is taken."""
        working: _Slot | None = None
        for number, pixels in enumerate(batches):
            slot = self._slots[number % 2]
            slot.load(pixels, self._copying)
            with self._guard():
                slot.run(self._forward)
            if working is not None:
                yield working.scores()
            working = slot
        if working is not None:
            yield working.scores()


class _Slot:
    """Buffers of one batch: in pinned memory, on the device, and for its scores."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._pixels = torch.empty(shape, dtype=torch.uint8, device="cuda")
        self._scores: torch.Tensor | None = None
        self._copied, self._read, self._done = (torch.cuda.Event() for _ in range(3))  # type: ignore[no-untyped-call]

    def load(self, pixels: NDArray[np.uint8], copying: torch.cuda.Stream) -> None:
        """Begin to copy pixels to the device, as soon as the previous ones are no longer needed."""
        self._copied.synchronize()
        self._pinned.copy_(torch.from_numpy(pixels))
        with torch.cuda.stream(copying):
            copying.wait_event(self._read)
            self._pixels.copy_(self._pinned, non_blocking=True)
            self._copied.record(copying)

    def run(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Begin to score them, as soon as they are there."""
        computing = torch.cuda.current_stream()
        computing.wait_event(self._copied)
        scores = forward(self._pixels)
        self._read.record(computing)
        if self._scores is None:
            self._scores = torch.empty(scores.shape, dtype=scores.dtype, pin_memory=True)
        self._scores.copy_(scores, non_blocking=True)
        self._done.record(computing)

    def scores(self) -> NDArray[np.float32]:
        """Wait for the scores, and return them."""
        assert self._scores is not None
        self._done.synchronize()
        return self._scores.numpy().copy()
