"""Decode files to the models' pixels, and to the facts of the content columns.

There is a column of pixels for each geometry: H*W*3 uint8, null where a file could not be decoded. Files are decoded
in a child process (`images/sandbox/child.py`); whatever is wrong with a file, and whatever it does to that process,
becomes its row's status. A content that crashed or stalled the child does so once: its copies are not tried. A child
that cannot be started stops the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.config import DecodeConfig
from nsfwscan.errors import POISON, RowError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.schema import REPORT_SCHEMA, SANDBOX
from nsfwscan.stages.base import Row, Stage, map_rows

_CONTENT = ("format", "width", "height", "frames", "camera", "software", "pdq", "pdq_quality", "signals")


_MOST_POISON = 10_000
"""Contents that a process remembers, at some hundred bytes each."""


class Poison(Protocol):
    """Contents, by their SHA-256, that crashed or stalled a decoder."""

    def look(self) -> None:
        """Learn what other workers have met."""

    def find(self, sha256: str) -> RowError | None:
        """Return what became of a content before."""

    def add(self, sha256: str, error: RowError) -> None:
        """Remember a content where it failed so."""


class OwnPoison:
    """Contents that this process has met, for a few images without a run."""

    def __init__(self) -> None:
        self._known: dict[str, RowError] = {}

    def look(self) -> None:
        """Do nothing: there is nobody else."""

    def find(self, sha256: str) -> RowError | None:
        """Return what became of a content before."""
        return self._known.get(sha256)

    def add(self, sha256: str, error: RowError) -> None:
        """Remember a content where it crashed or stalled its decoder."""
        if error.status in POISON and len(self._known) < _MOST_POISON:
            self._known[sha256] = error


class Decode(Stage):
    """Decodes every object that was read, once for all models.

    Args:
        columns: the names of the columns of pixels, by their geometry.
        poison: contents not to try again; unset, those that this process has met.
    """

    name = "decode"
    needs: tuple[str, ...] = ("bytes",)
    drops: tuple[str, ...] = ("bytes",)

    def __init__(self, config: DecodeConfig, columns: Mapping[Geometry, str], poison: Poison | None = None) -> None:
        self._child = DecodeChild(settings_of(config, *columns))
        self._poison = OwnPoison() if poison is None else poison
        self._pixels = [pa.field(name, pa.binary(geometry.nbytes)) for geometry, name in columns.items()]
        self._content = pa.schema([REPORT_SCHEMA.field(name) for name in _CONTENT])
        self.adds = pa.schema([*self._content, SANDBOX, *self._pixels])

    def open(self) -> None:
        """Start the child; later stages load their models while it gets ready."""
        self._child.start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with pixels and the content columns, without `bytes`."""
        pixels = [np.empty((table.num_rows, field.type.byte_width), np.uint8) for field in self._pixels]
        decoded = np.zeros(table.num_rows, np.bool_)
        held: list[str | None] = [None] * table.num_rows

        self._poison.look()
        contents = table["sha256"].to_pylist() if "sha256" in table.column_names else held

        def decode(row: Row) -> Row:
            content = contents[row["index"]]
            self._refuse_poison(content)
            try:
                facts = self._child.decode_into([images[row["index"]] for images in pixels], row["bytes"])
            except RowError as error:
                if content:
                    self._poison.add(content, error)
                raise
            finally:
                held[row["index"]] = ", ".join(self._child.sandbox) or "none"
            decoded[row["index"]] = True
            return facts

        table = map_rows(self, table, decode, adds=self._content).append_column(SANDBOX, pa.array(held, SANDBOX.type))
        for field, images in zip(self._pixels, pixels, strict=True):
            table = table.append_column(field, _as_column(images, decoded, field.type))
        return table

    def _refuse_poison(self, content: str | None) -> None:
        """Raise the RowError of a content that cost a decoder its life or its time before: a copy would do the same."""
        before = self._poison.find(content) if content else None
        if before is not None:
            raise RowError(before.code, f"{before.message} (the same bytes, tried before)", before.values)


def settings_of(config: DecodeConfig, *geometries: Geometry) -> Settings:
    """Return the settings of a decode child."""
    limits = config.model_dump(include={"max_pixels", "plugins", "timeout_s", "max_memory_bytes", "sandbox"})
    hashed, examined = config.pdq != "off", config.provenance
    return Settings(geometries=geometries, fast=config.reduces, hashed=hashed, examined=examined, **limits)


def _as_column(pixels: NDArray[np.uint8], there: NDArray[np.bool_], type_: pa.DataType) -> pa.Array:
    """Return pixels [rows, bytes] as an array without a copy, null where there are none."""
    validity = pa.array(there).buffers()[1]
    return pa.Array.from_buffers(type_, len(pixels), [validity, pa.py_buffer(pixels)])
