"""What is evaluated, and where its figures go.

In: options. Out: a frozen `EvaluateConfig`. A wrong key or value is a `ConfigError` that names it.
"""

from __future__ import annotations

from pydantic import Field

from nsfwscan.config import ClusterConfig, Dtype, Frozen, Uri


class Candidate(Frozen):
    """A checkpoint, as `nsfwscan scan --model` takes it."""

    uri: Uri
    """`embedded:open-nsfw`, a directory, any fsspec URI of one, or a hub id."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Checkpoint label to category, beside the alias table."""


class EvaluateConfig(ClusterConfig):
    """Everything that one evaluation does, but for its data."""

    model: Candidate
    against: Candidate | None = None
    """A second checkpoint, to be compared with the first on the same images."""
    out: Uri
    """Where page, figures, lists and the scan's report go: a directory or `s3://bucket/prefix`."""
    thumbnails: bool = True
    """Whether the page holds pictures of the false positives, blurred until they are opened."""
    dtype: Dtype = "auto"
    """As for a scan."""
    batch_size: int | None = Field(None, ge=1)
    """As for a scan."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """One or two."""
        return (self.model,) if self.against is None else (self.model, self.against)
