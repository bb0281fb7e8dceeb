"""Read what a run does with text: what it is searched for, whether it is kept, and for whom it is encrypted.

A key, a list of patterns or of hosts that is missing or is none raises `ConfigError` before a run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nsfwscan.config import StorageConfig, TextConfig, digest_of
from nsfwscan.errors import ConfigError
from nsfwscan.texts.hosts import Hosts, read_hosts
from nsfwscan.texts.patterns import PatternList, read_list
from nsfwscan.texts.sealing import key_id, read_public_key


@dataclass(frozen=True)
class TextRules:
    """The rules for what becomes of text, light enough to travel to every worker.

    Attributes:
        keep: whether `text/` has the lines.
        key: the public key, of 32 bytes, that they are encrypted with; None: they are not.
        lists: patterns that text is searched for.
        block, allow: hosts that codes may lead to.
    """

    keep: bool = True
    key: bytes | None = None
    lists: tuple[PatternList, ...] = ()
    block: Hosts | None = None
    allow: Hosts | None = None

    @classmethod
    def of(cls, config: TextConfig, storage: StorageConfig) -> TextRules:
        """Read what the configuration names."""
        lists = tuple(read_list(uri, storage) for uri in config.patterns)
        names = [one.content.name for one in lists]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"two lists of patterns are called {twice!r}")
        key = None if config.key is None else read_public_key(config.key, storage)
        block, allow = (None if uri is None else read_hosts(uri, storage) for uri in (config.block, config.allow))
        return cls(config.keep, key, lists, block, allow)

    @property
    def search_sha256(self) -> str:
        """Return the SHA-256 over the lists of patterns."""
        return digest_of([one.sha256 for one in self.lists])

    @property
    def hosts_sha256(self) -> str:
        """Return the SHA-256 over the lists of hosts."""
        return digest_of([one and one.sha256 for one in (self.block, self.allow)])

    def as_json(self) -> dict[str, Any]:
        """Return the section `text` of `run.json`."""
        hosts = {"block": self.block, "allow": self.allow}
        return {
            "kept": self.keep,
            "key": None if self.key is None else key_id(self.key),
            "patterns": [one.as_json() for one in self.lists],
            "hosts": {name: one.as_json() for name, one in hosts.items() if one is not None},
        }
