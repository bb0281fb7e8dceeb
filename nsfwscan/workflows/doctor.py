"""Check before a scan everything that could make it fail.

`examine` yields findings, one per line, while the checks run; it raises nothing and leaves nothing behind. A failed
check says what to do, and the checks after it still run.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from packaging.requirements import Requirement

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.pdq_index import index_bytes
from nsfwscan.config import ModelConfig, ScanConfig, StorageConfig
from nsfwscan.errors import BrokenRecord, NsfwscanError, RowError, StoreError
from nsfwscan.execution.layout import Needs
from nsfwscan.execution.machine import this_machine, usable_cpus
from nsfwscan.execution.ray_session import check_reachable
from nsfwscan.images.formats.containers import INSTALL, container_of, videos_are_decoded
from nsfwscan.images.formats.content_names import ContentKind, content_of
from nsfwscan.images.provenance.trust import trust_list, with_trust
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.confinement import LAYERS
from nsfwscan.location import Location
from nsfwscan.models import registry
from nsfwscan.models.cache import cache_folder
from nsfwscan.models.spec import ModelSpec
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.evidence import Evidence
from nsfwscan.runs.pins import describe_pin_use
from nsfwscan.sources.listing import list_sources
from nsfwscan.stages.decode import settings_of
from nsfwscan.storage.failures import STORE_ERRORS
from nsfwscan.storage.objects import fetch, open_file
from nsfwscan.storage.store import Store
from nsfwscan.text import printable, size
from nsfwscan.texts.rules import TextRules
from nsfwscan.workflows.pin import Pinned
from nsfwscan.workflows.start_notes import start_notes

_SAMPLE = 24
"""Number of a source's first objects whose beginnings are read."""
_HEAD_BYTES = 65_536
_NAMED = 3
_FREE_BYTES = 2 * 2**30
"""Free space below which a check warns: room for a model, a listing's sort and a shard's part."""


@dataclass(frozen=True)
class Finding:
    """Result of one check, as one line."""

    verdict: Literal["ok", "warn", "fail"]
    subject: str
    detail: str

    @property
    def is_failure(self) -> bool:
        """True if a scan could not run."""
        return self.verdict == "fail"

    def __str__(self) -> str:
        return f"{self.verdict:<5} {self.subject:<9} {self.detail}"


def examine(config: ScanConfig) -> Iterator[Finding]:
    """Run all checks, in the order in which a scan would need them."""
    checks: list[tuple[str, Callable[[ScanConfig], Iterator[Finding]]]] = [
        ("versions", _versions),
        ("machine", _machine),
        ("space", _space),
        ("decoder", _decoder),
        ("source", _sources),
        ("store", _store),
        ("evidence", _evidence),
        ("pin", lambda _: _pin(config)),
        ("policy", _policy),
        ("banks", _banks),
        ("model", _models),
        ("ray", _ray),
    ]
    as_pinned = _as_pinned(config)
    for subject, check in checks:
        try:
            yield from check(as_pinned)
        except (NsfwscanError, RowError) as error:
            yield Finding("fail", subject, str(error))
        except Exception as error:  # noqa: BLE001  # an unexpected error becomes a finding, too
            yield Finding("fail", subject, f"{type(error).__name__}: {error}")


def _versions(config: ScanConfig) -> Iterator[Finding]:
    """Check the version of each dependency against the range that the package declares."""
    wrong = []
    for text in metadata.requires("nsfwscan") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    said = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("ray", "torch", "transformers", "pyarrow", "pillow")
    )
    if wrong:
        yield Finding("fail", "versions", "; ".join(wrong) + ": pip install -c constraints.txt nsfwscan")
    else:
        yield Finding("ok", "versions", f"python {platform.python_version()}, {said}")


def _machine(config: ScanConfig) -> Iterator[Finding]:
    import torch

    cpus = f"{os.cpu_count()} CPUs" + (" with bfloat16" if registry.cpu_has_bfloat16() else "")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("ok", "machine", f"{cpus}; GPU: {names}")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "warn", "machine", f"{cpus}; an NVIDIA driver is there, but this torch ({torch.__version__}) sees no GPU"
        )
    else:
        yield Finding("ok", "machine", f"{cpus}; no GPU, models run on the CPU")


def _space(config: ScanConfig) -> Iterator[Finding]:
    places = {"temporary": tempfile.gettempdir(), "models": str(cache_folder())}
    if config.out and (out := Location.of(config.out).absolute()).is_local:
        places["reports"] = out.path
    for what, wanted in places.items():
        place = wanted
        while not os.path.exists(place):
            place = os.path.dirname(place)
        free = shutil.disk_usage(place).free
        enough: Literal["ok", "warn"] = "ok" if free >= _FREE_BYTES else "warn"
        yield Finding(enough, "space", f"{free / 2**30:.1f} GiB free for {what} ({place})")


def _decoder(config: ScanConfig) -> Iterator[Finding]:
    """Decode an empty file, and report how far the decode process is confined."""
    trust = trust_list(with_trust(config.decode, config.storage), config.storage)
    child = DecodeChild(settings_of(config.decode, trust=trust))
    try:
        with suppress(RowError):
            child.decode(b"")
    finally:
        child.close()
    lacking = ", ".join(layer for layer in LAYERS if layer not in child.sandbox)
    if config.decode.sandbox == "off":
        yield Finding("warn", "decoder", "not confined (decode.sandbox: off)")
    elif lacking:
        yield Finding("warn", "decoder", f"this kernel or container runtime does not confine it by {lacking}")
    else:
        yield Finding("ok", "decoder", f"confined by {', '.join(child.sandbox)}")
    if config.decode.c2pa:
        signers = trust.count("BEGIN CERTIFICATE")
        trusted = f"{signers} certificates are trusted" if signers else "no signer is trusted (--c2pa-trust)"
        yield Finding("ok", "decoder", f"C2PA manifests are verified; {trusted}")
    if config.decode.mode == "gpu" and config.engine.cluster is None:
        from nsfwscan.models.jpegs import JpegDecoder

        JpegDecoder([])  # which decodes a picture
        yield Finding("ok", "decoder", "ordinary JPEGs are decoded by the GPU, outside of the sandbox (--decode gpu)")


def _sources(config: ScanConfig) -> Iterator[Finding]:
    """List a few objects of each source, read one, and check from the first bytes of all whether they are images."""
    if not config.source.uris:
        yield Finding("warn", "source", "none given: name the sources of the scan to have them checked")
    for uri in config.source.uris:
        try:
            yield from _source(uri, config)
        except (NsfwscanError, RowError) as error:
            yield Finding("fail", "source", str(error))


def _source(uri: str, config: ScanConfig) -> Iterator[Finding]:
    source = config.source.model_copy(update={"uris": (uri,), "limit": _SAMPLE})
    first = next(list_sources(source, config.storage), None)
    if first is None:
        yield Finding("fail", "source", f"{uri}: lists nothing (with these --include/--exclude)")
        return
    allowed = first.filter(pc.is_null(first["refused"]))  # others are not opened here, either
    for other in first.filter(pc.is_valid(first["refused"])).slice(0, 1).to_pylist():
        yield Finding(
            "warn" if allowed.num_rows else "fail", "source", f"{uri}: {printable(other['uri'])}: {other['refused']}"
        )
    if not allowed.num_rows:
        return
    listed, limits = allowed["uri"].to_pylist(), config.read
    example = listed[0]
    name = printable(example)
    try:
        place = Location.of(example)
        found = fetch(place, config.storage, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s, attempts=2)
    except RowError as error:
        yield Finding("fail", "source", f"{uri}: can be listed, but {name} cannot be read: {error}")
        return
    yield Finding("ok", "source", f"{uri}: can be listed and read ({name}, {len(found.data):,} bytes)")
    yield from _are_images(uri, listed, config)


def _are_images(uri: str, listed: list[str], config: ScanConfig) -> Iterator[Finding]:
    """Warn if a scan of objects like these would score hardly any of them, and so end with exit code 5."""
    heads = [head for head in (_beginning(one, config.storage) for one in listed) if head is not None]
    videos = [head for head in heads if container_of(head) is not None]
    if videos and not videos_are_decoded():
        words = f"{uri}: of the first {len(heads)} objects, {len(videos)} are videos, which need: {INSTALL}"
        yield Finding("warn", "source", words)
    scanned = videos if videos_are_decoded() else []
    kinds = [content_of(head) for head in heads if head not in scanned]
    others = Counter(kind.name for kind in kinds if kind.kind is not ContentKind.IMAGE)
    count, limit = others.total(), config.report.max_unsupported_rate
    if not count or limit == 1 or count / len(heads) <= limit:
        return
    named = ", ".join(f"{n} × {name}" for name, n in others.most_common(_NAMED))
    yield Finding(
        "warn",
        "source",
        f"{uri}: of the first {len(heads)} objects, {count} are no images ({printable(named)}). If all are like "
        f"them, a scan ends with exit code 5: mend the source, or leave them out with --exclude",
    )


def _beginning(uri: str, storage: StorageConfig) -> bytes | None:
    """Return the first bytes of an object; None if it cannot be read, which a scan will report."""
    place = Location.of(uri)
    if place.is_local and not os.path.isfile(place.path):  # opening a pipe would wait for a writer
        return None
    try:
        with open_file(place, storage) as file:
            return file.read(_HEAD_BYTES)
    except STORE_ERRORS:
        return None


def _store(config: ScanConfig) -> Iterator[Finding]:
    """Create, read, list and delete a probe file under staging/, and check that the store refuses to overwrite it."""
    if not config.out:
        yield Finding("warn", "store", "none given: pass --out STORE to have it checked")
        return
    store = Store.at(config.out, config.store_options())
    folder = f"staging/doctor-{uuid.uuid4().hex}"
    name, content = f"{folder}/probe", b"nsfwscan doctor"
    store.create(name, content)
    try:
        if store.read(name) != content or store.names(folder) != ["probe"]:
            yield Finding("fail", "store", f"{store.uri}: what was written is not what is read")
            return
        yield _refuses_overwriting(store, name)
    finally:
        store.delete(folder)


def _refuses_overwriting(store: Store, name: str) -> Finding:
    if store.refuses_to_overwrite(name, b"again"):
        return Finding("ok", "store", f"{store.uri}: can be written, read, listed and deleted")
    said = "can be written, read, listed and deleted, but does not refuse to overwrite (it has no If-None-Match)"
    return Finding("warn", "store", f"{store.uri}: {said}; let no two scans share a run id")


def _evidence(config: ScanConfig) -> Iterator[Finding]:
    """Read the signing key, look for the signing command, and list the anchors; write nothing, since it might stay."""
    if not config.out:
        return
    found = Evidence.of(config.evidence, Store.at(config.out, config.store_options()), config.storage)
    if found.sign is not None:
        yield Finding(
            "ok", "evidence", "runs are signed by a key" if config.evidence.sign_key else "runs are signed by a command"
        )
    if found.anchors is not None:
        kept = found.anchors.retention()
        verdict: Literal["ok", "warn"] = "ok" if kept else "warn"
        lock = f"its bucket keeps new objects for {kept}" if kept else "nothing says that they are kept: no object lock"
        yield Finding(verdict, "evidence", f"{found.anchors.uri}: anchors can be listed; {lock}")


def _as_pinned(config: ScanConfig) -> ScanConfig:
    """Return the configuration that a scan would have: with what the store pins in place of what is left out."""
    if config.out:
        with suppress(NsfwscanError):  # the checks of the store and of the pin say what is wrong
            return Pinned.for_scan(Store.at(config.out, config.store_options()), config)[1]
    return config


def _pin(config: ScanConfig) -> Iterator[Finding]:
    """Read what the store pins, and warn where a scan would not be as pinned."""
    if not config.out:
        return
    try:
        pinned, config = Pinned.for_scan(Store.at(config.out, config.store_options()), config)
    except StoreError as error:
        if isinstance(error, BrokenRecord):
            raise
        return  # the store's own check says what is wrong
    if pinned.pin is None:
        return
    spec = pinned.resolve_model(config.model, config.storage)
    policy = pinned.load_policy(config.policy or spec.policy, config.storage)
    record = pinned.record(policy, pinned.resolve_banks(config.banks, config.storage), spec)
    verdict: Literal["ok", "warn"] = "warn" if record is not None and record.others else "ok"
    yield Finding(verdict, "pin", "\n".join(describe_pin_use(record)) or "all is given as it is pinned")


def _policy(config: ScanConfig) -> Iterator[Finding]:
    if config.policy is None:
        yield Finding("ok", "policy", "the model's own")
    else:
        policy = load_policy(config.policy, config.storage)
        yield Finding("ok", "policy", f"{policy.identity}, {len(policy.rules)} rules")
    for name in config.shadow_policies:
        yield Finding("ok", "policy", f"{load_policy(name, config.storage).identity}, which only counts")


def _banks(config: ScanConfig) -> Iterator[Finding]:
    """Read each bank, and keep it on this machine."""
    for bank in config.banks:
        [spec] = resolve_banks((bank,), config.storage)
        needed, free = index_bytes(spec.entries["pdq"]) if spec.is_large else 0, this_machine().memory_bytes
        verdict: Literal["ok", "warn"] = "warn" if spec.malformed or (free is not None and needed > free) else "ok"
        memory = f"; its index takes about {size(needed)} on each node" if needed else ""
        yield Finding(verdict, "banks", f"{spec.describe()}{memory}")


def _models(config: ScanConfig) -> Iterator[Finding]:
    """Load the models here, and let each score one batch of grey images; warn of what a scan would say as it begins."""
    spec, beside = registry.resolve(config.model, config.storage), registry.resolve_auxiliary(config)
    yield _model("model", spec, config.model, config.storage)
    policy = load_policy(config.policy or spec.policy, config.storage)
    shadows = [load_policy(name, config.storage) for name in config.shadow_policies]
    for subject, note in start_notes(config, policy, shadows, spec, beside):
        yield Finding("warn", subject, note)
    if beside.prefilter is not None:
        yield _model("prefilter", beside.prefilter, config.cascade.prefilter, config.storage)
    for detector in beside.detectors:
        yield _model("detector", detector, config.detectors[detector.name], config.storage)


def _model(subject: str, spec: ModelSpec, config: ModelConfig, storage: StorageConfig) -> Finding:
    if spec.takes == "picture":
        reader = registry.reader_of_pictures(spec, TextRules(), usable_cpus())
        reader.open()
        reader.read(np.full((64, 64, 3), 128, np.uint8))
        return Finding("ok", subject, f"{spec.identity} reads pictures; {', '.join(spec.labels)}")
    hardware = registry.choose_hardware(spec, config, threads=usable_cpus())
    if spec.takes == "text":
        scores = registry.load_judge(spec, storage, hardware)("hello")
        ends: Literal["ok", "fail"] = "ok" if np.isfinite(scores).all() else "fail"
        return Finding(ends, subject, f"{spec.identity} classifies text in {hardware.dtype}; {', '.join(spec.labels)}")
    scores = registry.load(spec, storage, hardware)(np.full((hardware.batch_size, *spec.geometry.shape), 128, np.uint8))
    if not np.isfinite(scores).all():
        return Finding("fail", subject, f"{spec.identity} returns no numbers in {hardware.dtype}: try --dtype float32")
    pairs = zip(spec.labels, spec.categories, strict=True) if spec.categories and subject != "detector" else ()
    labels = (
        ", ".join(f"{label} → {category}" for label, category in pairs)
        or ", ".join(spec.labels)
        or f"vectors of {spec.dimensions} numbers"
    )
    return Finding("ok", subject, f"{spec.identity} on {hardware.device} in {hardware.dtype}; {labels}")


def _ray(config: ScanConfig) -> Iterator[Finding]:
    from nsfwscan.execution.ray_data import describe_cluster

    check_reachable(config.engine.cluster)
    yield Finding("ok", "ray", describe_cluster(config.engine, Needs(registry.backend_of(config.model))))
