"""Read lines of text in pictures with rapidocr: PP-OCR's detection, direction and recognition, on ONNX Runtime.

The weights lie in rapidocr's wheel. Where one is missing, rapidocr would fetch it, and a scan reaches no network but
its stores': that is a `ModelError`. Which letters are read, `alphabet.py` says. The signals:

    <detector>.chars        characters of all lines, without spaces
    <detector>.lines        lines
    <detector>.profanity    different words that a list in the text's language calls profane; absent without a list

and those of the patterns that it is searched for (`patterns.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nsfwscan.errors import ModelError
from nsfwscan.texts.language import language_of, profane_words
from nsfwscan.texts.lines import LINE, Line, Pixels, TextFindings, place_of
from nsfwscan.texts.patterns import PatternList, Search

NAME = "embedded:text"
INSTALL = "pip install 'nsfwscan[text]'"
LABELS = ("chars", "lines", "profanity")
_WEIGHTS = ("PP-OCRv6_det_small.onnx", "ch_ppocr_mobile_v2.0_cls_mobile.onnx", "PP-OCRv6_rec_small.onnx")
"""Those that rapidocr 3.10 takes by itself."""
_SIDE = 960
"""Pixels of the longer side at which text is looked for; lines are read as large as they are. Measured on pages like a
phone's, 1080 × 2340: letters of 22 pixels are read without a fault, those of 18 with some, in 1 s of a core; 1280 takes
half as long again and reads those, too, and rapidocr's own setting 3.4 s."""
_LONGEST = 2.5
"""A picture that is longer than its other side so many times is read in windows."""
_LOWEST, _MOST_WINDOWS = 8, 24
"""Nothing is read in a picture of fewer pixels on its shorter side; a longer one has longer windows."""


class Ocr:
    """Reads lines of text.

    Args:
        threads: of the models.
        lists: patterns that text is searched for.
    """

    def __init__(self, threads: int, lists: Sequence[PatternList] = ()) -> None:
        self._threads, self._lists = threads, lists
        self._engine: Any = None

    def open(self) -> None:
        """Load the weights. Raises ModelError where rapidocr or one of them is missing."""
        weights()
        from rapidocr import RapidOCR

        of_runtime = "EngineConfig.onnxruntime"
        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.max_side_len": 10**6,
                "Global.min_side_len": 1,
                "Det.limit_type": "max",
                "Det.limit_side_len": _SIDE,
                f"{of_runtime}.intra_op_num_threads": self._threads,
                f"{of_runtime}.inter_op_num_threads": 1,
            }
        )

    def read(self, pixels: Pixels) -> list[Line]:
        """Return the lines of a picture, from top to bottom."""
        height, width, _ = pixels.shape
        found: list[Line] = []
        if min(height, width) < _LOWEST:
            return found
        for left, top, window, own in _windows(width, height):
            part = pixels[top : top + window[1], left : left + window[0]]
            read = self._engine(np.ascontiguousarray(part[..., ::-1]))  # rapidocr takes BGR
            for corners, text, score in zip(_given(read.boxes), _given(read.txts), _given(read.scores), strict=True):
                moved = np.asarray(corners, np.float64) + np.array([left, top])
                middle = moved.mean(axis=0)[int(height > width)]
                if own[0] <= middle < own[1]:
                    found.append(Line(LINE, str(text), float(score), place_of(moved, (width, height))))
        return found

    def describe(self, lines: Sequence[Line]) -> TextFindings:
        """Return the signals of all lines of an object, and the language of their text."""
        text = "\n".join(line.text for line in lines)
        language = language_of(text)
        signals = {"chars": float(sum(not c.isspace() for c in text)), "lines": float(len(lines))}
        profane = profane_words(text, language) if lines else frozenset()
        if profane is not None:
            signals["profanity"] = float(len(profane))
        return TextFindings({**signals, **self._search(text)}, {"text_language": language})

    @cached_property
    def _search(self) -> Search:
        return Search(self._lists)


def _given(values: Any) -> Any:
    return () if values is None else values


def _windows(width: int, height: int) -> Iterator[tuple[int, int, tuple[int, int], tuple[float, float]]]:
    """Yield left, top and size of each window that a picture is read in, and which part of its longer side is the
    window's own: it overlaps the next by a fifth of the shorter side, and the middle between is the border."""
    long, short = max(width, height), min(width, height)
    size, overlap = min(long, max(int(short * _LONGEST), _SIDE, long // _MOST_WINDOWS)), short // 5
    start, border = 0, -np.inf
    while True:
        end = min(start + size, long)
        last = end == long
        low, border = border, np.inf if last else end - overlap / 2
        if height > width:
            yield 0, start, (width, end - start), (low, border)
        else:
            yield start, 0, (end - start, height), (low, border)
        if last:
            return
        start = end - overlap


def weights() -> tuple[Path, ...]:
    """Return the files of the weights. Raises ModelError where rapidocr or one of them is missing."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"{NAME} needs the package rapidocr: {INSTALL}")
    folder = Path(found.submodule_search_locations[0], "models")
    files = tuple(folder / name for name in _WEIGHTS)
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"{NAME}: {missing[0]} is not in {folder}, and is not fetched: install the rapidocr of constraints.txt"
        )
    return files


@cache
def digest() -> str:
    """Return the hex SHA-256 over the weights, and over what else decides the lines and their signals.

    Raises ModelError where a package of the extra `text` is missing.
    """
    files = weights()
    try:
        packages = [f"{name} {metadata.version(name)}" for name in ("rapidocr", "py3langid", "glin-profanity")]
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"{NAME} needs the package {error.name}: {INSTALL}") from None
    total = hashlib.sha256("\n".join([*packages, f"{_SIDE} {_LONGEST}"]).encode())
    for file in files:
        with file.open("rb") as opened:
            total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()
