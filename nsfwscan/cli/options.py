"""Options that several commands share, and the sections of the configuration that options come to."""

from __future__ import annotations

import re
from typing import Any

import click

from nsfwscan.cli.console import Command, commit_sections, given_options
from nsfwscan.models.packs.catalogue import SCHEME as PACK
from nsfwscan.models.registry import PRESETS, READERS

bank_option = click.option(
    "--bank",
    "banks",
    multiple=True,
    metavar="NAME=URI[,kind=…]",
    help="List of known hashes: CSV, Parquet, JSON, or one hash per line. kind=block (default), allow, negative, "
    "illegal; distance=31, quality=50, hash=pdq|sha256|md5, column=NAME, tags=A+B, categories=1+2. Repeatable.",
)


detector_option = click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="NAME[=URI]",
    help="Also ask this model; its scores become signals NAME.LABEL. Without a URI: the pack NAME, or text or "
    "link, which read text (in Latin, Greek, Chinese and kana, no other script) and codes in pictures. Repeatable.",
)


ignore_run_option = click.option(
    "--ignore-run",
    "ignore_runs",
    multiple=True,
    metavar="ID",
    help="Ignore this committed run, whose record is broken. Repeatable.",
)


def decode_options(command: Command) -> Command:
    """Add the options for decoding: size limits, mode and perceptual hash."""
    for option in reversed(
        (
            click.option(
                "--max-pixels", type=click.IntRange(1), help="Do not decode larger images (default 100,000,000)."
            ),
            click.option(
                "--decode",
                type=click.Choice(["fast", "exact", "gpu"]),
                help="fast (default): decode large JPEGs at reduced scale, unless --pdq exact needs all pixels; moves "
                "scores by less than 0.02. exact: decode in full. gpu: so, and ordinary JPEGs on the model's GPU, with "
                "--pdq off (needs the extra nvjpeg).",
            ),
            click.option(
                "--pdq",
                type=click.Choice(["exact", "reduced", "off"]),
                help="Perceptual hash: exact (default) needs all pixels; reduced hashes large JPEGs at the scale of "
                "--decode fast (a few of 256 bits differ; several times as fast); off: none.",
            ),
            click.option(
                "--screenshots/--no-screenshots",
                default=None,
                help="Say how likely a picture is one of a screen, or of a chat: signals screenshot, screenshot.chat.",
            ),
            click.option(
                "--c2pa",
                is_flag=True,
                default=None,
                help="Verify C2PA manifests, offline: signals c2pa.valid, c2pa.invalid (needs the extra c2pa).",
            ),
            click.option(
                "--c2pa-trust",
                metavar="FILE",
                help="Verify them, and call signers by these certificates (PEM) trusted: signal c2pa.trusted.",
            ),
            click.option("--max-bytes", type=click.IntRange(1), help="Do not read larger objects (default 64 MiB)."),
        )
    ):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """Add the options for model, policy and hash banks, and `decode_options`."""
    command = decode_options(command)
    for option in reversed(
        (
            click.option(
                "--config",
                metavar="FILE",
                help="Configuration (YAML), a file or any fsspec URI; options on the command line win.",
            ),
            click.option(
                "--preset",
                type=click.Choice(sorted(PRESETS)),
                help="A public checkpoint with its label map and policy.",
            ),
            click.option(
                "--model",
                metavar="URI",
                help="embedded:open-nsfw (default), pack:NAME, a checkpoint directory, an fsspec URI or a hub id.",
            ),
            click.option(
                "--label",
                "labels",
                multiple=True,
                metavar="LABEL=CATEGORY",
                help="Map a label of the checkpoint to a category. Repeatable.",
            ),
            detector_option,
            click.option(
                "--dtype",
                type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
                help="Precision. auto (default): fp16 on CUDA, bf16 on CPUs that have it, fp32 elsewhere.",
            ),
            click.option(
                "--batch-size",
                type=click.IntRange(1),
                help="Images per forward pass (default: 8 on a CPU, 128 on a GPU).",
            ),
            click.option(
                "--compile",
                is_flag=True,
                default=None,
                help="Compile the model with torch.compile: a tenth faster, after minutes of preparation.",
            ),
            click.option(
                "--policy",
                metavar="FILE|NAME",
                help="Policy (a file or any fsspec URI), or name of a preset policy (default: the model's own).",
            ),
            bank_option,
        )
    ):
        command = option(command)
    return command


def reading_options(command: Command) -> Command:
    """Add the options of what is searched for in text and codes that detectors read."""
    for option in reversed(
        (
            click.option(
                "--patterns",
                multiple=True,
                metavar="FILE",
                help="Search the text that detectors read for these patterns (YAML), such as example:en. Repeatable.",
            ),
            click.option(
                "--block-hosts", metavar="FILE", help="Hosts, one a line, that codes in pictures must not lead to."
            ),
            click.option("--allow-hosts", metavar="FILE", help="Hosts, one a line, that they may lead to."),
        )
    ):
        command = option(command)
    return command


_SECTIONS = {
    "source": ("include", "exclude", "limit", "truth", "max_unmatched_truth", "allow", "links"),
    "storage": (
        "endpoint_url",
        "region",
        "profile",
        "anonymous",
        "requester_pays",
        "sse",
        "sse_kms_key_id",
        "s3_compatibility",
        "s3_addressing",
    ),
    "read": ("max_bytes", "max_requests_per_s"),
    "decode": ("max_pixels", "pdq", "screenshots", "c2pa", "c2pa_trust"),
    "views": ("tiles",),
    "text": ("keep",),
    "model": ("dtype", "batch_size", "compile"),
    "report": ("save_images", "max_error_rate", "max_unsupported_rate", "max_deleted_rate"),
    "engine": ("address", "num_cpus", "deadline"),
    "cost": ("prices", "rates"),
}


def sections_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the given options as sections of the configuration."""
    given = given_options(options)
    sections: dict[str, Any] = {s: {k: given[k] for k in keys if k in given} for s, keys in _SECTIONS.items()}
    sections |= commit_sections(given)
    if "model" in given:
        sections["model"]["uri"] = given["model"]
    if "labels" in given:
        sections["model"]["labels"] = dict(_pair(label) for label in given["labels"])
    if "decode" in given:
        sections["decode"]["mode"] = given["decode"]
    if "report" in given:
        sections["report"]["mode"] = given["report"]
    if "cascade" in given:
        sections["cascade"] = {"enabled": given["cascade"]}
    of_text = {"text_key": "key", "patterns": "patterns", "block_hosts": "block", "allow_hosts": "allow"}
    sections["text"] |= {key: given[option] for option, key in of_text.items() if option in given}
    if "full" in given:
        sections["previous"] = {"reuse": not given["full"]}
    if "ignore_runs" in given:
        sections["previous"] = {**sections.get("previous", {}), "ignore_runs": given["ignore_runs"]}
    if "detectors" in given:
        sections["detectors"] = dict(map(_detector, given["detectors"]))
    if "banks" in given:
        sections["banks"] = dict(map(bank_of, given["banks"]))
    named = {"golden": "uri", "golden_tolerance": "tolerance", "accept_drift": "accept"}
    sections["golden"] = {key: given[option] for option, key in named.items() if option in given}
    for name in ("policy", "shadow_policies"):
        if name in given:
            sections[name] = given[name]
    return {name: section for name, section in sections.items() if section != {}}


def _pair(label: str) -> tuple[str, str]:
    name, separator, category = label.rpartition("=")
    if not separator:
        raise click.BadParameter(f"{label!r} is not LABEL=CATEGORY", param_hint="--label")
    return name, category


def _detector(text: str) -> tuple[str, dict[str, str]]:
    name, separator, uri = text.partition("=")
    plain = name.removeprefix(PACK)
    embedded = f"embedded:{name}"
    return plain, {"uri": uri if separator else embedded if embedded in READERS else f"{PACK}{plain}"}


def bank_of(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a bank's name and settings from `NAME=URI,key=value,…`; a comma is the URI's unless a known key follows."""
    name, separator, rest = text.partition("=")
    uri, *settings = re.split(r",(?=(?:kind|distance|quality|hash|column|tags|categories)=)", rest)
    if not separator or not uri:
        raise click.BadParameter(f"{text!r} is not NAME=URI[,kind=…]", param_hint="--bank")
    bank: dict[str, Any] = {"uri": uri, **(dict(setting.split("=", 1) for setting in settings))}
    for name in {"tags", "categories"} & bank.keys():
        bank[name] = bank[name].split("+")
    return name, bank
