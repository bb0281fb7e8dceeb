"""A checkpoint that was exported as ONNX: a graph, and beside it a sidecar that says what the graph does not.

`NAME.onnx` takes `pixel_values`, float32 [batch, 3, H, W], normalised, and gives `probabilities`, float32
[batch, labels], with the checkpoint's temperature applied. `NAME.onnx.json` has labels, preprocessing, temperature and
the graph's SHA-256. A graph without its own sidecar raises `ModelError`: which label a number means, and how pixels are
prepared, must not be guessed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nsfwscan.errors import ModelError
from nsfwscan.models.checkpoint import read_json, temperature_in
from nsfwscan.models.spec import Gives

GRAPH = "model.onnx"
GRAPHS_GIVE = ("probabilities", "boxes", "embedding")
"""What an exported graph may give."""
FORMAT = "nsfwscan ONNX checkpoint 1"
_AGAIN = "export it again with `nsfwscan-train export CHECKPOINT`, which writes both"


@dataclass(frozen=True)
class Exported:
    """Content of a sidecar."""

    labels: tuple[str, ...]
    preprocessor: dict[str, Any]
    """As `preprocessor_config.json` has it."""
    temperature: float | None
    """Which the graph has applied; None: none."""
    digest: str
    """Hex SHA-256 over the graph and the sidecar."""
    gives: Gives = "probabilities"
    dimensions: int = 0
    """Of a vector."""


def sidecar_of(graph: Path) -> Path:
    """Return where a graph's sidecar lies."""
    return graph.with_name(f"{graph.name}.json")


def describe(
    graph: Path, labels: tuple[str, ...], preprocessor: dict[str, Any], temperature: float | None, checkpoint: str
) -> dict[str, Any]:
    """Return the content of a graph's sidecar.

    Args:
        checkpoint: the digest of the checkpoint that was exported, for people.
    """
    return sidecar_content(graph.name, graph_sha256(graph), labels, preprocessor, temperature, checkpoint)


def sidecar_content(
    graph: str,
    sha256: str,
    labels: tuple[str, ...],
    preprocessor: dict[str, Any],
    temperature: float | None,
    checkpoint: str,
    gives: Gives = "probabilities",
    dimensions: int = 0,
) -> dict[str, Any]:
    """Return the content of the sidecar of a graph with this name and SHA-256."""
    return {
        **({} if gives == "probabilities" else {"gives": gives}),
        **({"dimensions": dimensions} if dimensions else {}),
        "format": FORMAT,
        "graph": graph,
        "sha256": sha256,
        "labels": list(labels),
        "preprocessor": preprocessor,
        "temperature": temperature,
        "checkpoint": checkpoint,
    }


def read_exported(graph: Path, uri: str) -> Exported:
    """Read the sidecar of a graph. Raises ModelError where it is missing, of another kind, or of another graph."""
    sidecar = sidecar_of(graph)
    if not graph.is_file():
        raise ModelError(f"{uri}: there is no {graph.name}")
    if not sidecar.is_file():
        raise ModelError(
            f"{uri}: {sidecar.name} is missing beside it, which says what its labels are and how images are prepared: "
            f"copy it from where the graph was exported, or {_AGAIN}"
        )
    found = read_json(sidecar, uri)
    if found.get("format") != FORMAT:
        raise ModelError(f"{uri}: {sidecar.name} is no sidecar of an exported checkpoint ({FORMAT!r}): {_AGAIN}")
    if found.get("sha256") != graph_sha256(graph):
        raise ModelError(f"{uri}: {sidecar.name} is that of another graph, by its SHA-256: {_AGAIN}")
    gives: Any = found.get("gives", "probabilities")
    labels, preprocessor, dimensions = found.get("labels"), found.get("preprocessor"), found.get("dimensions", 0)
    if gives not in GRAPHS_GIVE:
        raise ModelError(f"{uri}: {sidecar.name} says that it gives {gives!r}; known are {', '.join(GRAPHS_GIVE)}")
    if gives == "embedding":
        if labels != [] or not isinstance(dimensions, int) or dimensions < 1:
            raise ModelError(f"{uri}: {sidecar.name} does not say how long its vectors are (dimensions), or has labels")
    elif not (isinstance(labels, list) and len(labels) > 1 and all(isinstance(label, str) for label in labels)):
        raise ModelError(f"{uri}: {sidecar.name} names no labels: {_AGAIN}")
    if not isinstance(preprocessor, dict):
        raise ModelError(f"{uri}: {sidecar.name} does not say how images are prepared (preprocessor): {_AGAIN}")
    digest = hashlib.sha256(f"{graph_sha256(graph)}\n{graph_sha256(sidecar)}\n".encode()).hexdigest()
    temperature = temperature_in(found, f"{uri}: {sidecar.name}")
    dimensions = dimensions if gives == "embedding" else 0
    return Exported(tuple(labels or ()), preprocessor, temperature, digest, gives, dimensions)


def graph_sha256(path: Path) -> str:
    """Return the SHA-256 of a graph, computed once for each state of the file."""
    state = path.stat()
    return _sha256_of(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=16)
def _sha256_of(path: Path, _state: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
