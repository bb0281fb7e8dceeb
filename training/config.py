"""Configuration of labelled images: which they are, and how they are divided. Wrong values are a `ConfigError`.

The first sentence of a field's docstring is its option's help.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from nsfwscan.config import DecodeConfig, Frozen, ReadConfig, Uri
from nsfwscan.schema import Category

SourceFormat = Literal["auto", "folders", "zip", "table", "verdicts"]

_MOST_BYTES = 2**30
"""Limit of an image: Arrow's `binary` holds 2 GiB in a batch."""


class DataConfig(Frozen):
    """Labelled images, and how they are divided into training, validation and test."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    uris: tuple[Uri, ...] = Field(min_length=1)
    """Class folders (local or any fsspec URI), a zip of them, a table of `uri,label`, a file of verdicts, or the hub's
    `deepghs/nsfw_detect`."""
    format: SourceFormat = "auto"
    """Form of DATA; auto: decided by its name, and for a table by its columns."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Folder's or table's label to category, beside the alias table."""
    seed: int = 0
    """Seed of the splits."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of each class for validation."""
    test_share: float = Field(0.1, gt=0, lt=1)
    """Share of each class for test."""
    similar_distance: int = Field(31, ge=0, le=64)
    """Bits, of 256, in which the PDQ hashes of similar images differ at most. PDQ's authors recommend 31; two images
    that have nothing in common differ in about 128."""
    max_per_class: int | None = Field(None, ge=1)
    """Most images of each class, drawn by the seed; for a quick look."""
    retry_unreadable: bool = False
    """Try again what could not be read because of the store or the machine. What is damaged stays so. Not the default,
    since a training that is resumed must find the images that it began with."""
    cache: str | None = None
    """Local folder for images and splits; unset: NSFWSCAN_CACHE, or ~/.cache/nsfwscan."""
    read: ReadConfig = ReadConfig()
    decode: DecodeConfig = DecodeConfig()

    @field_validator("labels")
    @classmethod
    def _labels_are_known(cls, labels: dict[str, str]) -> dict[str, str]:
        for label, category in labels.items():
            if category not in set(Category):
                raise ValueError(f"{label!r} cannot mean {category!r}; the categories are {', '.join(Category)}")
        return labels

    @field_validator("read")
    @classmethod
    def _images_fit(cls, read: ReadConfig) -> ReadConfig:
        if read.max_bytes > _MOST_BYTES:
            raise ValueError(f"images to learn from may have {_MOST_BYTES:,} bytes at most (max_bytes)")
        return read

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        return self
