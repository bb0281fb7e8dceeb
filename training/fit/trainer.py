"""Transformers `Trainer`, extended: it normalises on the device, weighs classes, freezes the backbone or decays its
learning rate by layer, and keeps an order of images that survives an interruption.

Its checkpoints hold everything that the next steps depend on. A GPU without memory for a batch is a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from torch.nn.functional import cross_entropy
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.images.preprocessing import Normalisation
from nsfwscan.models.registry import cpu_has_bfloat16
from nsfwscan.models.torch_backend import Normaliser
from training.fit.backbone import body_of, depths
from training.fit.config import TrainConfig
from training.fit.metrics import summarise
from training.fit.transforms import EpochOrder, Pixels, collate

WEIGHTS = "model.safetensors"
_LOGS_AN_EPOCH = 10
_MOST_STEPS_UNLOGGED = 50

Precision = Literal["float32", "bfloat16", "float16"]


def trains_on_gpu(config: TrainConfig) -> bool:
    """Return whether this worker trains on a GPU."""
    return torch.cuda.is_available() and config.use_gpu is not False


def choose_precision(config: TrainConfig) -> Precision:
    """Choose what this worker multiplies in: bf16 where the hardware has it, fp16 on older GPUs, fp32 elsewhere. Raises
    ConfigError where fp16 is asked for on a CPU."""
    if config.precision == "float16" and not trains_on_gpu(config):
        raise ConfigError("--precision float16 trains on a GPU only: use bfloat16, float32 or auto on a CPU")
    if config.precision != "auto":
        return config.precision
    if trains_on_gpu(config):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


def arguments_for(config: TrainConfig, folder: Path, images: int, precision: Precision) -> TrainingArguments:
    """Return the settings of the loop.

    Args:
        folder: this worker's own, for checkpoints before they are uploaded.
        images: in the training split.
    """
    on_gpu = trains_on_gpu(config)
    steps = max(1, -(-images // config.batch_size))
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.images_at_once,
        per_device_eval_batch_size=max(config.images_at_once, 8),
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_share,  # below 1 it is a share
        lr_scheduler_type=config.schedule,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=not on_gpu,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        metric_for_best_model=config.metric,
        greater_is_better=True,
        logging_steps=max(1, min(_MOST_STEPS_UNLOGGED, steps // _LOGS_AN_EPOCH)),
        seed=config.seed,
        data_seed=config.seed,
        dataloader_num_workers=config.loader_processes or 0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=True,  # DINOv2's mask token, for one, takes no part
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )


class ImageTrainer(Trainer):
    """Training loop of one worker.

    Attributes:
        model: the transformers model, never wrapped in another module; while it trains in half precision, accelerate
            has put a `forward` of its own on it.
        body: its backbone.
        order: in which the images of an epoch come.

    Args:
        class_weights: of the loss, one for each label; None: all alike.
    """

    model: Any

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        arguments: TrainingArguments,
        *,
        normalisation: Normalisation,
        train: Pixels,
        validation: Pixels,
        labels: Sequence[str],
        class_weights: NDArray[np.float32] | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        self._config = config
        self.order = EpochOrder(len(train), config.seed)
        self.body = getattr(model, body_of(model))
        if config.freeze_backbone:
            self.body.requires_grad_(False)

        def figures(found: EvalPrediction) -> dict[str, float]:
            summary = summarise(found.label_ids, np.argmax(found.predictions, -1), labels)
            # The Trainer's own loss is a mean of batches' means, which another number of workers changes.
            loss = cross_entropy(torch.as_tensor(found.predictions), torch.as_tensor(found.label_ids))
            return {"accuracy": summary["accuracy"], "macro_f1": summary["macro_f1"], "log_loss": loss.item()}

        super().__init__(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=validation,
            compute_metrics=figures,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = False  # ours is the mean over one batch
        self._normalise = Normaliser(normalisation, self.args.device)
        self._weights = None if class_weights is None else torch.from_numpy(class_weights).to(self.args.device)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross-entropy of a batch of uint8 pixels."""
        if self._config.freeze_backbone:
            self.body.eval()  # no dropout, and running statistics stay what they were
        try:
            logits = model(pixel_values=self._normalise(inputs["pixel_values"])).logits.float()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"the GPU's memory does not hold {len(inputs['labels'])} images at once: use a smaller --batch-size, "
                "or a larger --gradient-accumulation"
            ) from error
        loss = cross_entropy(logits, inputs["labels"], weight=self._weights)
        return (loss, {"logits": logits}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build AdamW: no decay for biases and norms; with `layer_decay` a learning rate for each layer."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(self._parameter_groups(), **options)
        return self.optimizer

    def _parameter_groups(self) -> list[dict[str, Any]]:
        decaying = set(self.get_decay_parameter_names(self.model))
        depth = depths(self.model)
        deepest = max(depth.values())
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            level = depth[name] if self._config.layer_decay < 1 else deepest
            group = {
                "params": [],
                "lr": self._config.rate * self._config.layer_decay ** (deepest - level),
                "weight_decay": self._config.weight_decay if name in decaying else 0.0,
            }
            groups.setdefault((level, name in decaying), group)["params"].append(parameter)
        return list(groups.values())

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        return self.order

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights under the model's own names, so that they load again to the bit."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(folder / WEIGHTS))

    def compute_in_full(self) -> None:
        """Make the model compute in float32, without autocast, as it will when its weights are loaded.

        `Accelerator.unwrap_model` would take off what transformers itself has around `forward`, too.
        """
        self.accelerator.native_amp = False  # otherwise an evaluation without a training before it puts it on again
        vars(self.model).pop("forward", None)
        vars(self.model).pop("_original_forward", None)

    def load_weights(self, folder: Path) -> None:
        """Read what `save_model` wrote."""
        load_model(self.model, str(folder / WEIGHTS), strict=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))


def balanced_weights(counts: Sequence[int]) -> NDArray[np.float32]:
    """Return images / (classes x images of the class): 1 for each class where all have as many (King & Zeng 2001)."""
    images = np.asarray(counts, np.float64)
    weights: NDArray[np.float32] = (images.sum() / (len(images) * np.maximum(images, 1))).astype(np.float32)
    return weights
