"""Read what a run does with text: whether it is kept, and for whom it is encrypted.

A key that is missing, or is none, raises `ConfigError` before a run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nsfwscan.config import StorageConfig, TextConfig
from nsfwscan.texts.sealing import key_id, read_public_key


@dataclass(frozen=True)
class TextRules:
    """What becomes of text, light enough to travel to every worker.

    Attributes:
        keep: whether `text/` has the lines.
        key: the public key, of 32 bytes, that they are encrypted with; None: they are not.
    """

    keep: bool = True
    key: bytes | None = None

    @classmethod
    def of(cls, config: TextConfig, storage: StorageConfig) -> TextRules:
        """Read what the configuration names."""
        return cls(config.keep, None if config.key is None else read_public_key(config.key, storage))

    def as_json(self) -> dict[str, Any]:
        """Return the section `text` of `run.json`."""
        return {"kept": self.keep, "key": None if self.key is None else key_id(self.key)}
