"""Find the files of a checkpoint that are loaded, and compute the digest over exactly those.

A checkpoint that would load anything else (a file elsewhere, a pickle, an adapter's base model) raises `ModelError`:
its weights could change and keep their identity.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from nsfwscan.errors import ModelError

TEMPERATURE = "temperature.json"
"""The file by which a temperature travels with a checkpoint: `temperature`, and what it was fitted on."""
WANTED = re.compile(
    r"^(config\.json|preprocessor_config\.json|processor_config\.json|temperature\.json"
    r"|model[\w.-]*\.safetensors(\.index\.json)?)$"
)
"""Names of the files that are fetched and digested."""
_SHARD = re.compile(r"model[\w.-]{0,200}\.safetensors")
_INDEX = "model.safetensors.index.json"
_ELSEWHERE = {
    "auto_map": "it needs code of its own (auto_map), which is never run",
    "transformers_weights": "its config.json names a file of weights (transformers_weights): rename it to "
    "model.safetensors and take the key out",
}
"""Keys of config.json by which transformers would load more than `WANTED`."""


def read_json(path: Path, uri: str) -> dict[str, Any]:
    """Read an object from a checkpoint's JSON file. Raises ModelError where it is missing or malformed."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError(f"a {type(loaded).__name__}, not an object")
    except FileNotFoundError:
        raise ModelError(
            f"{uri}: no {path.name}; a model directory has config.json, preprocessor_config.json and safetensors"
        ) from None
    except RecursionError:
        raise ModelError(f"{uri}: {path.name} cannot be read: it is nested too deeply") from None
    except (ValueError, OSError) as error:
        raise ModelError(f"{uri}: {path.name} cannot be read: {error}") from None
    return loaded


def read_temperature(folder: Path, uri: str) -> float | None:
    """Return the temperature by which a checkpoint's logits are divided; None without `temperature.json`. Raises
    ModelError where that file says none."""
    path = folder / TEMPERATURE
    if not path.exists():
        return None
    where = f"{uri}: {TEMPERATURE}"
    found = temperature_in(read_json(path, uri), where)
    if found is None:
        raise ModelError(f"{where} names no temperature: write one, or delete the file")
    return found


def temperature_in(content: dict[str, Any], where: str) -> float | None:
    """Return the positive number `temperature` of a JSON object; None without one. Raises ModelError for another."""
    found = content.get("temperature")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < inf:
        raise ModelError(f"{where}: the temperature is {found!r}, not a number above 0")
    return float(found)


def digest_of_folder(folder: Path) -> str:
    """Return the hex SHA-256 over a checkpoint's weights, configuration, preprocessor and temperature. Raises
    ModelError where it holds no safetensors, or would load something that the digest does not cover."""
    files = sorted(path for path in folder.iterdir() if WANTED.match(path.name))
    if not any(path.suffix == ".safetensors" for path in files):
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise ModelError(
            f"{folder}: no safetensors"
            + (f"; {', '.join(pickled)} is pickled and never loaded: convert it" if pickled else "")
        )
    check_sealed(folder)
    return _digest_of(tuple((path, (info := path.stat()).st_ino, info.st_size, info.st_mtime_ns) for path in files))


def check_sealed(folder: Path) -> None:
    """Check that transformers loads nothing but files of this folder that the digest covers. Raises ModelError where
    the index of shards, the configuration or an adapter leads elsewhere."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: it is an adapter (adapter_config.json), whose base model lies elsewhere: merge them and save "
            "the result"
        )
    settings = read_json(folder / "config.json", str(folder))
    for key, why in _ELSEWHERE.items():
        if settings.get(key):
            raise ModelError(f"{folder}: {why}")
    if not (folder / "model.safetensors").exists():  # which transformers prefers to the index
        _check_index(folder)


def _check_index(folder: Path) -> None:
    index = read_json(folder / _INDEX, str(folder))
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{folder}: {_INDEX} names no shards (weight_map)")
    for name in sorted({str(shard) for shard in shards.values()}):
        if not _SHARD.fullmatch(name):
            raise ModelError(
                f"{folder}: {_INDEX} names {name!r}; weights are only loaded from model….safetensors in the same "
                "folder: save the checkpoint again with save_pretrained"
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {_INDEX} names {name}, which is missing: copy the checkpoint again")


@lru_cache(maxsize=8)
def _digest_of(versions: tuple[tuple[Path, int, int, int], ...]) -> str:
    """Digest files, once for each state of them: (path, inode, bytes, time of change in ns)."""
    total = hashlib.sha256()
    for path, *_ in versions:
        with path.open("rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
