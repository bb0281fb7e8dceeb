"""Configuration of an evaluation. Wrong values are a `ConfigError`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from nsfwscan.config import ClusterConfig, Dtype, Frozen, Uri


class Candidate(Frozen):
    """A checkpoint, as `nsfwscan scan --model` takes it."""

    uri: Uri
    """`embedded:open-nsfw`, a directory, any fsspec URI of one, or a hub id."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Checkpoint label to category, beside the alias table."""


class EvaluateConfig(ClusterConfig):
    """Everything that one evaluation does, but for its data."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: Candidate
    """Checkpoint to measure: a directory, an fsspec URI, a hub id, or embedded:open-nsfw."""
    against: Candidate | None = None
    """A second checkpoint, compared with the first on the same images."""
    out: Uri
    """Where page, figures, lists and the scan's report go: a directory, or s3://bucket/prefix."""
    write_policy: Uri | None = None
    """A policy file to write, with the thresholds of --model and where they come from: a path, or s3://…"""
    thumbnails: bool = True
    """Show pictures of the false positives on the page, blurred until they are opened."""
    dtype: Dtype = "auto"
    """Precision, as for a scan."""
    batch_size: int | None = Field(None, ge=1)
    """Images in a forward pass, as for a scan."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Return the checkpoints, one or two."""
        return (self.model,) if self.against is None else (self.model, self.against)
