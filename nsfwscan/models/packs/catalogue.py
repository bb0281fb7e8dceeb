"""Say which packs there are: what each holds, which package carries it, its licence, and what was measured of it.

The catalogue is `catalogue.yaml`; $NSFWSCAN_PACK_CATALOGUE may name a further file, with other packs. What was left
out, and why, is `left_out.yaml`. A wrong catalogue raises `ConfigError`, an unknown pack `ModelError`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from nsfwscan.config import Frozen
from nsfwscan.documents import load_yaml
from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.models.spec import Gives

SCHEME = "pack:"
_OURS = Path(__file__).with_name("catalogue.yaml")
_LEFT_OUT = _OURS.with_name("left_out.yaml")
_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Measurement(Frozen):
    """A figure, and who measured it."""

    what: str
    by: str


class Pack(Frozen):
    """A model inside a package."""

    title: str
    registry: Literal["pypi", "npm"]
    package: Annotated[str, Field(pattern=r"^(@[\w.-]+/)?\w[\w.-]*$")]
    version: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]
    files: Annotated[dict[str, Sha256], Field(min_length=1)]
    """Paths inside the package, and the SHA-256 of each."""
    converter: Literal["tfjs", "cut"] | None = None
    """What makes a graph of the files; unset: the one file is a graph."""
    tensor: str | None = None
    """Of the graph in the one file, where it is cut (`cut`)."""
    graph: Sha256
    """SHA-256 of the ONNX graph."""
    bytes: Annotated[int, Field(ge=1)]
    """Size of the graph."""
    labels: tuple[str, ...] = ()
    """In the model's order; none of what gives vectors."""
    harmless: tuple[str, ...] = ()
    """Those that mean that nothing is there which asks for a person's attention, and that are no category."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Numbers of a vector."""
    preprocessor: dict[str, Any]
    gives: Gives = "probabilities"
    licence: str
    """Of the weights."""
    licence_note: str | None = None
    accept: bool = False
    """Whether the licence must be accepted by name: it asks more of its users than to be named."""
    measured: tuple[Measurement, ...] = ()

    @model_validator(mode="after")
    def _one_graph(self) -> Pack:
        if self.converter is None and list(self.files.values()) != [self.graph]:
            raise ValueError("a pack without a converter has one file, and that is the graph")
        if (self.converter == "cut") != (self.tensor is not None):
            raise ValueError("a graph is cut at a tensor, and only a cut has one")
        if not (self.gives == "embedding") == (self.dimensions is not None) == (not self.labels):
            raise ValueError("an embedding has dimensions and no labels, everything else labels and no dimensions")
        if unknown := set(self.harmless) - set(self.labels):
            raise ValueError(f"it has no label {sorted(unknown)[0]}")
        if len(self.labels) == 1:
            raise ValueError("one label says nothing: a pack has two or more")
        return self

    @property
    def source(self) -> str:
        """Return the package, for people."""
        return f"{self.package} {self.version} ({self.registry})"


class LeftOut(Frozen):
    """A pack that was looked at and is not offered."""

    title: str
    registry: Literal["pypi", "npm"]
    version: str
    why: str
    """In sentences, for who asks for it."""


def catalogue() -> dict[str, Pack]:
    """Return all packs by their names."""
    further = os.environ.get("NSFWSCAN_PACK_CATALOGUE")
    return {**(_read(Path(further)) if further else {}), **_ours()}


def find_pack(name: str) -> Pack:
    """Return a pack by its name, with or without `pack:`. Raises ModelError for an unknown one."""
    packs, plain = catalogue(), name.removeprefix(SCHEME)
    if plain in packs:
        return packs[plain]
    if (known := left_out().get(plain)) is not None:
        raise ModelError(f"the pack {plain} ({known.title}) was left out: {known.why}")
    raise ModelError(f"there is no pack {plain!r}; there are {', '.join(packs)} (nsfwscan models list)")


@lru_cache(maxsize=1)
def left_out() -> dict[str, LeftOut]:
    """Return the packs that were left out, by their packages."""
    loaded = load_yaml(_LEFT_OUT.read_text(encoding="utf-8"))
    return _LeftOut.of({"packs": loaded}, str(_LEFT_OUT)).packs


@lru_cache(maxsize=1)
def _ours() -> dict[str, Pack]:
    return _read(_OURS)


class _Catalogue(Frozen):
    packs: dict[Annotated[str, Field(pattern=_NAME)], Pack]


class _LeftOut(Frozen):
    packs: dict[Annotated[str, Field(pattern=_NAME)], LeftOut]


def _read(path: Path) -> dict[str, Pack]:
    try:
        loaded = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the packs of {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the packs of {path} are not YAML: {error}") from None
    return _Catalogue.of({"packs": loaded}, str(path)).packs
