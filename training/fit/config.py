"""Configuration of a training. Wrong values are a `ConfigError`.

The first sentence of a field's docstring is its option's help.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from nsfwscan.config import ClusterConfig, Dtype, Uri

FINE_TUNING_RATE = 2e-5
"""A conservative peak learning rate for all weights, in the range that BERT's authors searched (Devlin et al. 2019,
A.3) and that fine-tuned ViTs are published with."""
PROBE_RATE = 1e-3
"""For a new head alone on features that do not change: Adam's own default (Kingma & Ba 2015)."""


class TrainConfig(ClusterConfig):
    """Everything that one training does, but for its data."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    backbone: Uri
    """Checkpoint to start from: a directory, an fsspec URI or a hub id. Any transformers image model as safetensors
    serves, with or without a head; the head is always a new one."""
    out: Uri
    """Where the checkpoint goes, and what a stopped training goes on from: a directory, or s3://bucket/prefix. All
    workers must reach it."""
    epochs: int = Field(5, ge=1)
    """Times that every image is seen."""
    batch_size: int = Field(32, ge=1)
    """Images in an optimiser step, over all workers and accumulated batches."""
    gradient_accumulation: int = Field(1, ge=1)
    """Batches that a step is computed in, where memory is short."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak; unset: 2e-5, or 1e-3 with --freeze-backbone."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of all weights except biases and norms."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Fall of the learning rate after that."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer of the backbone, relative to the layer above it."""
    freeze_backbone: bool = False
    """Train the head alone (a linear probe)."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """Weight of an image in the loss; balanced: in inverse proportion to the size of their class."""
    augment: bool = True
    """Flip, crop and jitter colours, all lightly."""
    precision: Dtype = "auto"
    """Precision of the computation; auto: bf16 where the hardware has it, fp16 on older GPUs, fp32 elsewhere. Weights
    stay in fp32."""
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """Figure of the validation split that the best epoch is chosen by."""
    patience: int | None = Field(3, ge=1)
    """Epochs without a better metric after which training ends; 0: never before its time."""
    checkpoint_steps: int | None = Field(500, ge=1)
    """Steps between checkpoints within an epoch; each epoch ends with one anyway."""
    seed: int = Field(0, ge=0)
    """Seed of the new head, the order of the images, augmentation and dropout."""
    max_pixels: int = Field(100_000_000, ge=1)
    """As for a scan."""
    workers: int = Field(1, ge=1)
    """Processes that train side by side, with GPUs one each."""
    use_gpu: bool | None = None
    """Train on GPUs; unset: where the cluster has as many as workers."""
    loader_processes: int | None = Field(None, ge=0)
    """Processes of each worker that decode images; unset: none on a CPU, all of a GPU worker's CPUs but one."""
    max_failures: int = Field(3, ge=0)
    """Times that lost workers are replaced before the job ends, to be submitted again."""
    export_onnx: bool = False
    """Write model.onnx, too, checked against the checkpoint."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.workers * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of workers x gradient_accumulation, {parts}: "
                "each must get as many images as the others"
            )
        return self

    @model_validator(mode="after")
    def _probe_has_no_layers(self) -> Self:
        if self.freeze_backbone and self.layer_decay != 1.0:
            raise ValueError("layer_decay is for a backbone that is trained; freeze_backbone trains the head alone")
        return self

    @property
    def rate(self) -> float:
        """Return the peak learning rate."""
        return self.learning_rate or (PROBE_RATE if self.freeze_backbone else FINE_TUNING_RATE)

    @property
    def images_at_once(self) -> int:
        """Return how many images are in a forward pass of one worker."""
        return self.batch_size // (self.workers * self.gradient_accumulation)

    def deciding(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON values; a training is only resumed with the same."""
        not_deciding = {
            "out",
            "checkpoint_steps",
            "precision",  # what auto stands for is kept with each checkpoint
            "use_gpu",
            "loader_processes",
            "max_failures",
            "export_onnx",
            "address",
            "num_cpus",
        }
        return self.model_dump(mode="json", exclude=not_deciding) | {"learning_rate": self.rate}
