"""Refuse a scan that is to decode on GPUs (`decode.mode: gpu`) where it cannot, before anything is read."""

from __future__ import annotations

from nsfwscan.config import ScanConfig
from nsfwscan.errors import ConfigError
from nsfwscan.execution.layout import Fleet
from nsfwscan.execution.machine import this_machine
from nsfwscan.images.left_to_gpu import refuse_geometry, refuse_without_library
from nsfwscan.models.spec import AuxiliaryModels, ModelSpec


def refuse_undecodable(config: ScanConfig, spec: ModelSpec, beside: AuxiliaryModels) -> None:
    """Raise ConfigError where the extra is missing, the models are none for it, or this machine, on which the scan
    would run, has no GPU."""
    if config.decode.mode != "gpu":
        return
    refuse_without_library()
    if all(model.backend != "torch" for model in (spec, *beside.all)):
        raise ConfigError(f"--decode gpu is for models on a GPU, and {spec.uri} runs on cores: use --decode fast")
    for model in (spec, *beside.all):
        if model.takes == "pixels":
            refuse_geometry(model.geometry, model.uri)
    if config.engine.cluster is None and not this_machine().gpus:
        raise ConfigError(
            "--decode gpu needs a GPU with CUDA, and this machine has none: use --decode fast, or --address"
        )


def refuse_without_gpus(config: ScanConfig, fleet: Fleet) -> None:
    """Raise ConfigError where no actor of a cluster would have a GPU."""
    if config.decode.mode == "gpu" and fleet.layout.kind == "fused":
        raise ConfigError(
            "--decode gpu needs nodes with GPUs, and the cluster has none now: start one with the cluster, or use "
            "--decode fast"
        )
