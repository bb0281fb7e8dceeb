"""The readers of what strangers, other tools and broken disks may hand us, each with files that it reads.

In: the bytes of a damaged file. Out: nothing; what a reader may raise is `RowError`, `NsfwscanError` and `BalanceError`, each of which
is a sentence for a person. To have another reader tried, add a `Target` to `TARGETS`.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw
from pyarrow import feather, orc

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.config import BankConfig, DecodeConfig, ModelConfig, ScanConfig, SourceConfig, StorageConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.location import Location
from nsfwscan.models.registry import resolve
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.lint import lint
from nsfwscan.policy.rules import load_policy, preset_names
from nsfwscan.runs.run import runs_of
from nsfwscan.runs.verify import verify
from nsfwscan.schema import REPORT_SCHEMA, as_schema
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.truth import read_truth
from nsfwscan.stages.decode import settings_of
from nsfwscan.storage.store import Store
from tests.runs.rows import scanned
from training.config import DataConfig
from training.data.sources import list_examples

LOCAL = StorageConfig()


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: makes files that it reads.
        read: reads one; gets the bytes and an empty folder.
        slow_s: seconds after which it hangs.
    """

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], None]
    slow_s: float = 20.0


# Images, in the process that a scan decodes them in


@cache
def _pictures() -> Sequence[bytes]:
    picture = Image.linear_gradient("L").resize((48, 36)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((8, 8, 30, 30), fill=(200, 40, 90))
    made = []
    for kind, options in [
        ("JPEG", {"quality": 80}), ("JPEG", {"progressive": True, "exif": _exif()}), ("PNG", {}), ("GIF", {}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {}),
        ("AVIF", {}), ("ICO", {}),
    ]:  # fmt: skip
        out = io.BytesIO()
        picture.save(out, kind, **options)
        made.append(out.getvalue())
    for kind, mode in [("PNG", "P"), ("PNG", "I;16"), ("GIF", "P"), ("TIFF", "CMYK"), ("JPEG", "CMYK"), ("BMP", "P")]:
        out = io.BytesIO()
        (picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)).save(out, kind)
        made.append(out.getvalue())
    for kind in ("GIF", "PNG", "WEBP"):
        out = io.BytesIO()
        picture.save(out, kind, save_all=True, append_images=[picture.rotate(90), picture.rotate(180)])
        made.append(out.getvalue())
    return made


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0131] = 6, "Maker", "Editor 1.0"
    return exif.tobytes()


@cache
def _decoder() -> DecodeChild:
    config = DecodeConfig(timeout_s=15.0, max_memory_bytes=2**29, max_pixels=10_000_000)
    return DecodeChild(settings_of(config, Geometry((32, 32), Image.Resampling.BILINEAR)))


def _decode(data: bytes, folder: Path) -> None:
    _decoder().decode(data)


# Lists of objects, and what is known of them


def _lists() -> Sequence[bytes]:
    rows = [
        {"uri": f"images/{i}.jpg", "size": 10 + i, "etag": f'"{i}"', "modified_at": "2026-11-01T00:00:00Z", "truth": t}
        for i, t in enumerate(["neutral", "porn", None, "drawings"])
    ]
    out, others = io.BytesIO(), (io.BytesIO(), io.BytesIO())
    pq.write_table(pa.Table.from_pylist(rows), out)
    orc.write_table(pa.Table.from_pylist(rows), others[0])
    feather.write_feather(pa.Table.from_pylist(rows), others[1])
    lines = "\n".join(map(json.dumps, rows)).encode()
    header, *values = [",".join(rows[0]), *(",".join(str(v or "") for v in row.values()) for row in rows)]
    text = "\n".join([header, *values]).encode()
    return [
        out.getvalue(),
        lines,
        text,
        json.dumps(rows).encode(),
        *(other.getvalue() for other in others),
        b'{"source-ref": "s3://b/a.jpg"}\n',
        b"a.jpg\nb.jpg\n",
    ]


def _tables() -> Sequence[bytes]:
    """Those of the lists that have truth."""
    return _lists()[:6]


def _named(data: bytes, folder: Path) -> Path:
    """A file that is called what it once was."""
    suffix = ".parquet" if data[:4] == b"PAR1" else ".jsonl" if data[:1] in (b"{", b"[") else ".csv"
    path = folder / f"list{suffix}"
    path.write_bytes(data)
    return path


def _list(data: bytes, folder: Path) -> None:
    for _ in list_sources(SourceConfig(uris=(str(_named(data, folder)),)), LOCAL):
        pass


def _truth(data: bytes, folder: Path) -> None:
    for _ in read_truth(Location.of(str(_named(data, folder))), LOCAL):
        pass


def _inventory_seeds() -> Sequence[bytes]:
    manifest = {
        "sourceBucket": "media",
        "destinationBucket": "arn:aws:s3:::inventory",
        "version": "2016-11-30",
        "creationTimestamp": "1762041600000",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
        "files": [{"key": "data/0.csv.gz", "size": 100, "MD5checksum": "0" * 32}],
    }
    return [json.dumps(manifest).encode()]


def _inventory(data: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(data)
    for _ in list_sources(SourceConfig(uris=(str(folder / "manifest.json"),)), LOCAL):
        pass


def _verdict_seeds() -> Sequence[bytes]:
    rows = [
        {"uri": f"a{i}.jpg", "verdict": v, "sha256": "0" * 64, "reviewer": "kim", "reviewed_at": "2026-11-01T00:00:00Z"}
        for i, v in enumerate(["porn", "neutral", "sexy"])
    ]
    return ["\n".join(map(json.dumps, rows)).encode(), _csv(rows)]


def _csv(rows: Sequence[dict[str, str]]) -> bytes:
    return "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]).encode()


def _verdicts(data: bytes, folder: Path) -> None:
    list_examples(DataConfig(uris=(str(_named(data, folder)),)), LOCAL)


# Hash banks, policies, configuration


def _bank_seeds() -> Sequence[bytes]:
    hashes = [hashlib.sha256(bytes([i])).hexdigest() for i in range(5)]
    rows = [{"sha256": h, "md5": h[:32], "pdq": h, "id": f"entry-{i}", "tags": "a;b"} for i, h in enumerate(hashes)]
    threat = [{"indicator": {"indicator": h, "type": "HASH_SHA256"}, "tags": ["x"], "id": "1"} for h in hashes]
    vics = {"value": [{"MediaID": 1, "Category": 1, "MD5": hashes[0][:32], "SHA1": "0" * 40, "MediaSize": "5"}]}
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    documents = [json.dumps(rows), json.dumps({"data": threat}), json.dumps(vics), "\n".join(hashes)]
    return [out.getvalue(), _csv(rows), *(document.encode() for document in documents)]


def _bank(data: bytes, folder: Path) -> None:
    path = _named(data, folder)
    resolve_banks((BankConfig(name="fuzz", uri=str(path), hash="sha256"),), LOCAL)


def _policy_seeds() -> Sequence[bytes]:
    presets = Path(__file__).parents[2] / "nsfwscan" / "policy" / "presets"
    texts = [(presets / f"{name}.yaml").read_bytes() for name in preset_names()]
    return [*texts, *(json.dumps(yaml.safe_load(text), default=str).encode() for text in texts)]


def _policy(data: bytes, folder: Path) -> None:
    (folder / "policy.yaml").write_bytes(data)
    policy = load_policy(str(folder / "policy.yaml"))
    list(lint(policy))
    Decider(policy)(as_schema(pa.table({"uri": ["a"], "status": ["ok"], "nsfw_score": [0.5]}), REPORT_SCHEMA))


def _config_seeds() -> Sequence[bytes]:
    given = {
        "source": {"uris": ["/media"], "include": ["*.jpg"], "limit": 5},
        "out": "/reports",
        "decode": {"pdq": "reduced", "timeout_s": 5},
        "model": {"uri": "/models/vit"},
        "cascade": {"enabled": True, "threshold": 0.02},
        "banks": [{"name": "a", "uri": "a.csv", "kind": "illegal"}],
        "detectors": {"violence": {"uri": "./x", "labels": {"LABEL_1": "armed"}}},
    }
    return [yaml.safe_dump(given).encode(), json.dumps(given).encode()]


def _config(data: bytes, folder: Path) -> None:
    (folder / "nsfwscan.yaml").write_bytes(data)
    ScanConfig.load(str(folder / "nsfwscan.yaml"), {"out": "/reports"})


# Checkpoints: one file of a good one is damaged


_CHECKPOINT = ("config.json", "preprocessor_config.json", "model.safetensors.index.json")


@cache
def _checkpoint() -> dict[str, bytes]:
    labels = {"0": "normal", "1": "nsfw"}
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "id2label": labels,
        "hidden_size": 32,
    }
    processor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "size": {"height": 32, "width": 32}, "resample": 2, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }  # fmt: skip
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    return dict(zip(_CHECKPOINT, (json.dumps(said).encode() for said in (config, processor, index)), strict=True))


def _model(data: bytes, folder: Path) -> None:
    files = dict(_checkpoint())
    files[_CHECKPOINT[sum(data[:64]) % len(_CHECKPOINT)]] = data
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"\0" * 64)
    resolve(ModelConfig(uri=str(folder)), LOCAL)


# Records of runs: one of a committed run's is damaged, then everything that reads records does


@cache
def _store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nsfwscan-fuzz-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    media = folder / "media"
    media.mkdir()
    for number in range(3):
        (media / f"{number}.jpg").write_bytes(b"image")
    scanned(media, folder / "out", run_id="made")
    return folder


def _record_seeds() -> Sequence[bytes]:
    return [(_store() / "out/runs/made" / name).read_bytes() for name in ("run.json", "plan.json")]


def _record(data: bytes, folder: Path) -> None:
    shutil.copytree(_store() / "out", folder / "out")
    name = "plan.json" if b'"settings"' in data[:200] else "run.json"
    (folder / "out/runs/made" / name).write_bytes(data)
    store = Store.at(str(folder / "out"), LOCAL)
    [run] = runs_of(store)
    list(verify(run))
    run.state()
    refused = []
    for read in (run.record, run.plan, lambda: scanned(_store() / "media", folder / "out", run_id="next")):
        try:
            read()
        except NsfwscanError as error:
            refused.append(error)
    if refused:
        raise refused[0]


TARGETS: dict[str, Target] = {
    "images": Target(_pictures, _decode),
    "manifests": Target(_lists, _list),
    "truth": Target(_tables, _truth),
    "inventories": Target(_inventory_seeds, _inventory),
    "verdicts": Target(_verdict_seeds, _verdicts),
    "records": Target(_record_seeds, _record),
    "banks": Target(_bank_seeds, _bank),
    "policies": Target(_policy_seeds, _policy),
    "configurations": Target(_config_seeds, _config),
    "checkpoints": Target(lambda: list(_checkpoint().values()), _model),
}
