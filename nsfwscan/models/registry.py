"""Find a model by its name (embedded, a pack, a directory, any fsspec URI, or a hub id), and load it.

The driver resolves a `ModelConfig` to a `ModelSpec`; a worker loads the spec as a `Classifier`. Each node downloads a
model once, under a file lock. Models that are missing or cannot be trusted raise `ModelError`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from PIL import Image

from nsfwscan.config import Dtype, ModelConfig, ScanConfig, StorageConfig, TextConfig
from nsfwscan.errors import ModelError
from nsfwscan.images.preprocessing import Geometry, Normalisation, read_preprocessor
from nsfwscan.location import Location
from nsfwscan.models.cache import cache_folder
from nsfwscan.models.checkpoint import WANTED, digest_of_folder, read_json, read_temperature
from nsfwscan.models.exported import GRAPH, read_exported
from nsfwscan.models.labels import categories_of, renamed
from nsfwscan.models.onnx_backend import EMBEDDED, load_onnx, open_nsfw_path
from nsfwscan.models.packs.catalogue import SCHEME as PACK
from nsfwscan.models.packs.pull import pack_path
from nsfwscan.models.spec import AuxiliaryModels, Classifier, Gives, Hardware, Judge, ModelSpec
from nsfwscan.models.text_checkpoint import TOKENIZER, digest_of_text_folder, is_of_text, labels_of_text
from nsfwscan.policy.gate import check_gates
from nsfwscan.schema import Category
from nsfwscan.storage.atomic import appearing
from nsfwscan.storage.failures import in_words, retry
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import etag_of, modified_of
from nsfwscan.texts import codes, ocr
from nsfwscan.texts.lines import Reader
from nsfwscan.texts.rules import TextRules

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Preset:
    """A public checkpoint with its label map and its policy."""

    model: str
    policy: str
    labels: tuple[tuple[str, str], ...] = ()


PRESETS: dict[str, Preset] = {
    "open-nsfw": Preset(EMBEDDED, "open-nsfw"),
    "five-class": Preset("LukeJacob2023/nsfw-image-detector", "five-class"),
    "falconsai": Preset("Falconsai/nsfw_image_detection", "binary", (("normal", "neutral"), ("nsfw", "nsfw"))),
}
"""Values of `--preset`: the embedded open_nsfw; a five-class ViT (Apache-2.0); a binary ViT-B/16 (Apache-2.0)."""


def apply_preset(name: str) -> dict[str, Any]:
    """Return the configuration of a preset, which the user's own options override. Raises ModelError."""
    if name not in PRESETS:
        raise ModelError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return {"model": {"uri": preset.model, "labels": dict(preset.labels)}, "policy": preset.policy}


def resolve(config: ModelConfig, storage: StorageConfig) -> ModelSpec:
    """Find a model, and read all but its weights. Raises ModelError where it is missing, holds no safetensors, or its
    labels or preprocessor are not understood."""
    spec = _read(config.uri, storage)
    if config.uri == EMBEDDED:
        return spec
    if spec.takes == "text":
        raise ModelError(
            f"{config.uri} classifies text, and no images: name it as a detector (--detector NAME={config.uri}), after "
            "one that reads text (--detector text)"
        )
    if spec.gives != "probabilities":
        raise ModelError(
            f"{config.uri} gives {spec.gives}, and no probabilities of categories: name it as a detector (--detector "
            f"NAME={config.uri}), beside a model"
        )
    categories = categories_of(spec.labels, config.labels, config.uri)
    return replace(spec, categories=categories, policy="binary" if Category.NSFW in categories else "five-class")


def resolve_detector(name: str, config: ModelConfig, storage: StorageConfig) -> ModelSpec:
    """Find a model whose labels mean no category; `config.labels` gives them other names. Raises ModelError as
    `resolve` does, and where `config.labels` renames an unknown label, or gives two labels one name."""
    spec = _read(config.uri, storage)
    return replace(spec, name=name, labels=renamed(spec.labels, config.labels, config.uri))


def _read(uri: str, storage: StorageConfig) -> ModelSpec:
    """Read all of a model but its weights and what a checkpoint's labels mean."""
    if is_embedded(uri):
        return _embedded(uri)
    place = _local(uri, storage)
    if place.is_dir() and is_of_text(model_settings(place, uri)):
        labels, digest = labels_of_text(model_settings(place, uri), uri), digest_of_text_folder(place)
        return ModelSpec(_name_of(uri), uri, digest, "torch", labels, (), PICTURE, _PLAIN, "", takes="text")
    backend: Literal["torch", "onnx"] = "torch" if place.is_dir() else "onnx"
    gives: Gives
    if backend == "onnx":
        exported = read_exported(place, uri)
        labels, preprocessor, digest = exported.labels, exported.preprocessor, exported.digest
        temperature, gives, dimensions = exported.temperature, exported.gives, exported.dimensions
    else:
        labels, preprocessor = _labels(model_settings(place, uri), uri), preprocessor_settings(place, uri)
        digest, temperature = digest_of_folder(place), read_temperature(place, uri)
        gives, dimensions = "probabilities", 0
    geometry, normalisation = read_preprocessor(preprocessor, uri)
    of_pixels = geometry, normalisation, "", temperature, gives, dimensions
    return ModelSpec(_name_of(uri), uri, digest, backend, labels, (), *of_pixels)


def _name_of(uri: str) -> str:
    """Return the name of a model in reports: a folder's own, a hub id, or that of a graph and the folder it is in."""
    if _is_hub_id(uri):
        return uri
    if uri.startswith(PACK):
        return uri.removeprefix(PACK)
    path = Path(uri.rstrip("/"))
    return f"{path.parent.name}.onnx" if path.name == GRAPH and path.parent.name else path.name


def resolve_auxiliary(config: ScanConfig) -> AuxiliaryModels:
    """Find the models beside the primary one that the configuration asks for, and bind their conditions. Raises
    ModelError, and PolicyError for a condition."""
    check_gates(config.detectors)
    prefilter = resolve(config.cascade.prefilter, config.storage) if config.cascade.enabled else None
    detectors = tuple(resolve_detector(name, one, config.storage) for name, one in config.detectors.items())
    for place, one in enumerate(detectors):
        if one.takes == "text" and not any(before.uri == ocr.NAME for before in detectors[:place]):
            raise ModelError(
                f"the detector {one.name} classifies text, and none before it reads any: name one (--detector text)"
            )
        if config.detectors[one.name].abstain is not None and (one.gives, one.takes) != ("probabilities", "pixels"):
            raise ModelError(f"detectors.{one.name}.abstain is for a classifier of pictures; {one.uri} is none")
    _check_is_read(config.text, {one.uri for one in detectors})
    if not any(one.takes == "picture" for one in detectors):
        return AuxiliaryModels(prefilter, detectors)
    rules = TextRules.of(config.text, config.storage)
    return AuxiliaryModels(prefilter, tuple(_with_rules(one, rules) for one in detectors), rules)


def _check_is_read(text: TextConfig, uris: set[str]) -> None:
    """Raise ModelError for a setting of text that no detector gives: it would do nothing, and say nothing."""
    lacking = (
        ("text.patterns (--patterns)", text.patterns, {ocr.NAME}),
        ("text.block (--block-hosts)", text.block, {codes.NAME}),
        ("text.allow (--allow-hosts)", text.allow, {codes.NAME}),
        ("text.key (--text-key)", text.key, {ocr.NAME, codes.NAME}),
    )
    for setting, value, readers in lacking:
        if value and not readers & uris:
            ways = " or ".join(f"--detector {name.removeprefix('embedded:')}" for name in sorted(readers, reverse=True))
            raise ModelError(f"{setting} is set, and no detector reads what it is for: add {ways}")


def _with_rules(spec: ModelSpec, rules: TextRules) -> ModelSpec:
    """Return the spec of a reader, whose signals follow from lists of the user's, too."""
    if spec.takes != "picture":
        return spec
    further = rules.search_sha256 if spec.uri == ocr.NAME else rules.hosts_sha256
    topics = sorted({topic for one in rules.lists for topic in one.content.topics}) if spec.uri == ocr.NAME else []
    digest = hashlib.sha256(f"{spec.digest} {further}".encode()).hexdigest()
    return replace(spec, digest=digest, labels=(*spec.labels, *topics))


def is_embedded(uri: str) -> bool:
    """Return whether a model comes with the package."""
    return uri.startswith("embedded:")


def backend_of(config: ModelConfig) -> Literal["torch", "onnx"]:
    """Return what runs a model, by its name alone: ONNX Runtime for the embedded one, packs and graphs, else torch."""
    return "onnx" if config.uri.startswith(("embedded:", PACK)) or config.uri.endswith(".onnx") else "torch"


def load(spec: ModelSpec, storage: StorageConfig, hardware: Hardware) -> Classifier:
    """Load a model on this worker. Raises ModelError where the weights differ from those that the driver saw, or do not
    load."""
    if is_embedded(spec.uri):
        return load_onnx(spec, open_nsfw_path(), hardware)
    place = _local(spec.uri, storage)
    digest = digest_of_folder(place) if place.is_dir() else read_exported(place, spec.uri).digest
    if digest != spec.digest:
        raise ModelError(
            f"{spec.uri}: the weights on this worker are not those that the run began with; start a new run"
        )
    if spec.backend == "onnx":
        return load_onnx(spec, place, hardware)
    from nsfwscan.models.torch_backend import load_torch

    return load_torch(spec, place, hardware)


def choose_hardware(spec: ModelSpec, config: ModelConfig, *, threads: int) -> Hardware:
    """Choose device, precision and batch size for this worker: fp16 on CUDA, bf16 on a CPU with it, else fp32."""
    if spec.backend == "torch":
        import torch

        has_cuda = torch.cuda.is_available()
    else:
        import onnxruntime

        has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return hardware_on("cuda" if has_cuda else "cpu", spec, config, threads=threads)


def hardware_on(device: Literal["cuda", "cpu"], spec: ModelSpec, config: ModelConfig, *, threads: int) -> Hardware:
    """Choose precision and batch size for a device, whether this machine has it or not."""
    batch_size = config.batch_size or (128 if device == "cuda" else 8)
    dtype = _dtype(config.dtype, device, spec)
    return Hardware(device, dtype, batch_size, threads, config.compile and spec.backend == "torch")


def weights_bytes(spec: ModelSpec, storage: StorageConfig) -> int:
    """Return the size of a model's weights in bytes."""
    if spec.uri in READERS:
        return sum(path.stat().st_size for path in READERS[spec.uri].weights())
    place = open_nsfw_path() if is_embedded(spec.uri) else _local(spec.uri, storage)
    return sum(path.stat().st_size for path in (place.glob("model*.safetensors") if place.is_dir() else [place]))


def _dtype(wanted: Dtype, device: str, spec: ModelSpec) -> Literal["float32", "bfloat16", "float16"]:
    if spec.backend == "onnx":
        if wanted not in ("auto", "float32"):
            raise ModelError(f"{spec.uri} runs in float32 only: leave --dtype out")
        return "float32"
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "float16"
    return "bfloat16" if cpu_has_bfloat16() else "float32"


@lru_cache(maxsize=1)
def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware (AMX or AVX512-BF16); else it is slower than float32."""
    try:
        flags = set(re.findall(r"\w+", cpuinfo.read_text(encoding="utf-8")))
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


PICTURE = Geometry((1600, 1600), Image.Resampling.BILINEAR, letterbox="within")
"""Of what reads pictures: as many pixels as a phone's screen has."""
_PLAIN = Normalisation(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
READERS = {ocr.NAME: ocr, codes.NAME: codes}
"""What reads pictures, by the name."""


def reader_of_pictures(spec: ModelSpec, rules: TextRules, threads: int) -> Reader:
    """Return what reads pictures, not opened yet."""
    return ocr.Ocr(threads, rules.lists) if spec.uri == ocr.NAME else codes.Codes(rules)


def load_judge(spec: ModelSpec, storage: StorageConfig, hardware: Hardware) -> Judge:
    """Load a classifier of text on this worker. Raises ModelError as `load`."""
    from nsfwscan.models.torch_text import load_text

    place = _local(spec.uri, storage)
    if digest_of_text_folder(place) != spec.digest:
        raise ModelError(
            f"{spec.uri}: the weights on this worker are not those that the run began with; start a new run"
        )
    return load_text(spec, place, hardware)


def _embedded(uri: str) -> ModelSpec:
    if uri in READERS:
        name = uri.removeprefix("embedded:")
        labels, digest = READERS[uri].LABELS, READERS[uri].digest()
        return ModelSpec(name, uri, digest, "onnx", labels, (), PICTURE, _PLAIN, "", gives="lines", takes="picture")
    if uri != EMBEDDED:
        raise ModelError(f"no embedded model {uri!r}; there are {', '.join((EMBEDDED, *READERS))}")
    # https://github.com/yahoo/open_nsfw: 256 x 256 bilinear, centre crop 224, a JPEG round trip, BGR minus the mean.
    return ModelSpec(
        name="open-nsfw",
        uri=uri,
        digest=_digest_of_file(open_nsfw_path()),
        backend="onnx",
        labels=("sfw", "nsfw"),
        categories=(Category.NEUTRAL, Category.NSFW),
        geometry=Geometry((256, 256), Image.Resampling.BILINEAR, (224, 224), reencode_jpeg=True),
        normalisation=Normalisation(1.0, (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), bgr=True),
        policy="open-nsfw",
    )


@cache
def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _local(uri: str, storage: StorageConfig) -> Path:
    """Return a checkpoint on this node: its folder, or the graph of an exported one or of a pack."""
    if uri.startswith(PACK):
        return pack_path(uri)
    place = Location.of(uri)
    if uri.endswith(".onnx") and not (place.is_local and Path(place.path).is_dir()):
        name = uri.rsplit("/", 1)[-1]
        if not place.is_local:
            return _download(uri.removesuffix(f"/{name}"), storage, frozenset((name, f"{name}.json"))) / name
        return Path(place.path).resolve()
    folder = local_folder(uri, storage)
    graph = folder / GRAPH
    return graph if graph.is_file() and not any(folder.glob("*.safetensors")) else folder


def local_folder(uri: str, storage: StorageConfig) -> Path:
    """Return a folder on this node with the checkpoint's files, downloaded once per node if they are elsewhere."""
    place = Location.of(uri)
    if not place.is_local:
        return _download(uri.rstrip("/"), storage)
    path = Path(place.path)
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ModelError(
            f"{uri}: a model is a directory with config.json, preprocessor_config.json and safetensors, or an exported "
            "graph (model.onnx) with its sidecar, not a file of another kind"
        )
    if _is_hub_id(uri):
        return _from_hub(uri)
    raise ModelError(f"{uri}: no such model directory (nor is it {EMBEDDED}, a pack, a URI or a hub id)")


def _is_hub_id(uri: str) -> bool:
    return _HUB_ID.match(uri) is not None and not Path(uri).exists()


def _from_hub(repo: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo, allow_patterns=["*.json", "model*.safetensors*", "vocab.txt", "merges.txt", "*.model"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{repo}: neither a directory here nor to be had from the hub ({reason}); a gated model needs HF_TOKEN"
        ) from error


def _download(uri: str, storage: StorageConfig, names: frozenset[str] | None = None) -> Path:
    """Copy the wanted files of a remote folder. Their versions make the folder's name, so a changed model is new.

    Args:
        names: of the files; unset: those of a checkpoint, or of an exported one where there are no safetensors.
    """
    fs = filesystem(Location.of(uri), storage)
    with in_words(f"cannot fetch the model {uri}", ModelError):
        found = {str(i["name"]).rsplit("/", 1)[-1]: i for i in fs.ls(uri, detail=True) if i.get("type") == "file"}
        if names is None and not any(name.endswith(".safetensors") for name in found):
            names = frozenset(name for name in found if WANTED.match(name)) | {GRAPH, f"{GRAPH}.json"}
        taken = (lambda n: WANTED.match(n) or TOKENIZER.match(n)) if names is None else names.__contains__
        wanted = {n: info for n, info in found.items() if taken(n)}
        versions = sorted((n, i.get("size"), str(etag_of(i) or modified_of(i))) for n, i in wanted.items())
        target = cache_folder() / hashlib.sha256(json.dumps([uri, versions]).encode()).hexdigest()[:32]
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                with appearing(target, locked=True) as unfinished:
                    unfinished.mkdir()
                    for name, info in wanted.items():
                        retry(partial(fs.get_file, info["name"], str(unfinished / name)))
    return target


def _labels(settings: dict[str, Any], uri: str) -> tuple[str, ...]:
    names = settings.get("id2label")
    if not names:
        raise ModelError(f"{uri}: its config.json names no labels (id2label); a score without a name cannot be trusted")
    if not isinstance(names, dict):
        raise ModelError(f"{uri}: its id2label is a {type(names).__name__}, not an object that names each number")
    if settings.get("problem_type") not in (None, "single_label_classification") or len(names) < 2:
        raise ModelError(
            f"{uri}: not a classifier of one label out of several "
            f"(problem_type {settings.get('problem_type')}, {len(names)} labels)"
        )
    if set(names) != {str(i) for i in range(len(names))} or not all(isinstance(names[key], str) for key in names):
        raise ModelError(f"{uri}: its id2label is not a name for each of 0 to {len(names) - 1}: {names}")
    return tuple(names[str(i)] for i in range(len(names)))


def model_settings(folder: Path, uri: str) -> dict[str, Any]:
    """Read a checkpoint's config.json. Raises ModelError where it is missing, or is timm's."""
    settings = read_json(folder / "config.json", uri)
    if settings.get("model_type") == "timm_wrapper" or ("pretrained_cfg" in settings and "model_type" not in settings):
        named = settings.get("label_names") or ["not named"]
        raise ModelError(
            f"{uri}: a checkpoint of timm (architecture {settings.get('architecture', 'not named')}, labels "
            f"{', '.join(map(str, named))}), which nsfwscan does not run: timm needs torchvision, and "
            "prepares images in ways of its own. Take a checkpoint that was saved by transformers (its config.json has "
            "model_type and id2label), or train one on your images: nsfwscan-train fit --backbone …"
        )
    return settings


def preprocessor_settings(folder: Path, uri: str) -> dict[str, Any]:
    """Read the preprocessing settings of a checkpoint's folder. Raises ModelError where there are none."""
    nested = folder / "processor_config.json"
    if nested.exists():
        settings = read_json(nested, uri).get("image_processor")
        if isinstance(settings, dict):
            return settings
    return read_json(folder / "preprocessor_config.json", uri)
