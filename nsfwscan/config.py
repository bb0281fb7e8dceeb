"""One frozen model per stage; YAML in, unknown keys refused; `fingerprint()` out.

In: a YAML file and options. Out: a `ScanConfig` that no one changes afterwards. A wrong key or value is a
`ConfigError` that names it. Secrets are never part of it: credentials come from the environment or a profile, and
`storage.options` (which may hold some) is left out of `public()`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nsfwscan.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Frozen(BaseModel):
    """A configuration that cannot be changed and does not accept what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class StorageConfig(Frozen):
    """How to reach an object store; unset fields leave it to the usual AWS environment."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments for the fsspec filesystem, for stores that are neither local nor S3."""


class SourceConfig(Frozen):
    """What to scan."""

    uris: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)
    truth: str = "path"
    """`path` (class folders), `none`, or a file with `uri` and `truth` columns."""


class ReadConfig(Frozen):
    """How objects are fetched."""

    max_bytes: int = Field(64 * 2**20, ge=1)
    concurrency: int = Field(16, ge=1, le=512)
    """Objects in flight for each CPU actor."""
    timeout_s: float = Field(60.0, gt=0)
    """For one object, all attempts but the last included."""
    attempts: int = Field(4, ge=1)


class DecodeConfig(Frozen):
    """How bytes become pixels."""

    max_pixels: int = Field(100_000_000, ge=1)


class ModelConfig(Frozen):
    """Which weights score the images, and how they are run."""

    uri: str = "embedded:open-nsfw"
    """`embedded:open-nsfw`, a directory, any fsspec URI of one, or a hub id."""
    dtype: Dtype = "auto"
    batch_size: int | None = Field(None, ge=1)
    """Images in a forward pass, padded to exactly this; unset: 8 on a CPU, 128 on a GPU."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Checkpoint label to category, beside the alias table."""


class ReportConfig(Frozen):
    """What is written, and when a finished run counts as a bad one."""

    save_images: bool = False
    max_error_rate: float = Field(0.05, ge=0, le=1)
    """Over this share of images that could not be read, exit code 4; objects that are no images do not count."""


class EngineConfig(Frozen):
    """Where it runs."""

    address: str | None = None
    """A Ray cluster; unset: the one of the environment, or a local one."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a local Ray; unset: all of this machine's."""
    shard_rows: int = Field(256, ge=1, le=1000)
    seed: int = 0
    """Order in which shards are handed out."""


class ScanConfig(Frozen):
    """Everything that one scan does."""

    source: SourceConfig
    out: str
    storage: StorageConfig = StorageConfig()
    out_storage: StorageConfig | None = None
    """Unset: endpoint, region and profile of `storage`."""
    read: ReadConfig = ReadConfig()
    decode: DecodeConfig = DecodeConfig()
    model: ModelConfig = ModelConfig()
    policy: str | None = None
    """A policy file, or a preset's name; unset: the one that comes with the model."""
    report: ReportConfig = ReportConfig()
    engine: EngineConfig = EngineConfig()

    def store_options(self) -> StorageConfig:
        """How to reach the report store. Anonymous reading and requester-pays are matters of the source alone."""
        if self.out_storage is not None:
            return self.out_storage
        return self.storage.model_copy(update={"anonymous": False, "requester_pays": False})

    def public(self) -> dict[str, Any]:
        """The configuration as it may be written down: JSON types, without anything that could be a secret."""
        secret = {"options"}
        return self.model_dump(mode="json", exclude={"storage": secret, "out_storage": secret})

    def fingerprint(self) -> str:
        """Hex SHA-256 over what decides the rows of a run: source, limits, model and policy, not where it runs."""
        wanted: Any = {"source": True, "read": {"max_bytes"}, "decode": True, "model": True, "policy": True}
        return digest_of(self.model_dump(mode="json", include=wanted))

    @classmethod
    def load(cls, path: str | None, over: dict[str, Any], under: dict[str, Any] | None = None) -> Self:
        """Reads YAML (or nothing) and lays it over `under`, and `over` over both, section by section.

        Raises:
            ConfigError: the file cannot be read, or a key or value is wrong; the message names each.
        """
        merged = merge(merge(under or {}, _read_yaml(path) if path else {}), over)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(_explain(error, path)) from None


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, nested sections merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} is not YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"the configuration {path} must be a mapping of sections, not a {type(loaded).__name__}")
    return loaded


def _explain(error: ValidationError, path: str | None) -> str:
    lines = [f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg']}" for e in error.errors()]
    return f"wrong configuration{f' in {path}' if path else ''}:\n  " + "\n  ".join(lines)
