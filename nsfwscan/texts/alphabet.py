"""Say which letters the reader of text can give, and which patterns have others: those are never found in a picture.

The recognition model names its letters in its ONNX file (`character`, a line each). A file without them raises
`ModelError`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from nsfwscan.errors import ModelError
from nsfwscan.texts import ocr
from nsfwscan.texts.folding import lacking_in, plain
from nsfwscan.texts.patterns import PatternList

SCRIPTS = "Latin, Greek, Chinese and kana"
"""What the letters belong to."""
_FEW = 3
"""Letters, and patterns, that a note names."""


def unread_notes(lists: Sequence[PatternList]) -> Iterator[str]:
    """Yield one sentence for each list with patterns whose letters the reader cannot give, and what to do. Raises
    ModelError where the letters are not known."""
    for one in lists:
        unread = {pattern: lacking for pattern in one.patterns if (lacking := lacking_in(pattern, letters()))}
        if unread:
            signs = sorted(frozenset[str]().union(*unread.values()))
            named = unicodedata.name(signs[0], "a sign without a name")
            yield (
                f"{one.uri}: {len(unread)} of {len(one.patterns)} patterns have letters that {ocr.NAME} does not read "
                f"({_some(signs)}: {named}): {_some(map(repr, unread))}. What is written with them is not found in "
                f"pictures. It reads {SCRIPTS}: add how people write it in those, or do not count on these patterns"
            )


def _some(values: Iterable[str]) -> str:
    listed = list(values)
    more = len(listed) - _FEW
    return ", ".join(listed[:_FEW]) + (f" and {more:,} more" if more > 0 else "")


@cache
def letters() -> frozenset[str]:
    """Return all letters and signs that the reader can give, as `plain` leaves them. Raises ModelError where the
    weights are missing, or do not name them."""
    *_, recognition = ocr.weights()
    named = _metadata_of(recognition).get("character")
    if not named:
        raise ModelError(f"{recognition} does not name its letters: install the rapidocr of constraints.txt")
    return frozenset("".join(map(plain, named.split("\n"))))


def _metadata_of(graph: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file. Raises ModelError where it is none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nothing is computed
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot open {graph}: {str(error).splitlines()[0]}") from error
    return dict(session.get_modelmeta().custom_metadata_map)
