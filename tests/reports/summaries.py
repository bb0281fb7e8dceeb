"""Records of runs, and what their pages hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nsfwscan.policy.compare import COMPARED
from nsfwscan.reports.html import render_summary
from tests.runs.rows import as_record, record_of

if TYPE_CHECKING:
    pass

HOSTILE = 's3://media/2026/11/<script>alert("owned")</script>\'"><img src=x onerror=alert(1)>\nsecond line\u202egpj.exe\x1b[31m\u0000'


LONG = "s3://media/2026/11/uploads/" + "x" * 997


_RULES = [
    ("explicit", "nsfw_score >= 0.8", "block", "adult", "blur", 3),
    ("borderline", "nsfw_score >= 0.2", "review", "adult", "blur", 2),
    ("no-image", "status = 'unsupported'", "undetermined", None, "none", 0),
    ("unreadable", "status <> 'ok'", "undetermined", "ingest", "none", 1),
]


_HISTOGRAM = [
    981_204,
    61_377,
    22_940,
    9_180,
    3_411,
    2_090,
    1_377,
    1_020,
    811,
    640,
    552,
    473,
    420,
    391,
    360,
    344,
    1_502,
    1_690,
    1_811,
    4_207,
]


_ERRORS = [
    ("unsupported", 12_884, "s3://media/2026/11/uploads/readme.txt", "not a format that is scanned: looks like text"),
    ("decode_error", 1_207, HOSTILE, "the JPEG data is damaged: image file is truncated (12 bytes not processed)"),
    ("not_found", 311, "s3://media/2026/11/uploads/ملف-صورة.jpg", "gone since it was listed (NoSuchKey)"),
    ("denied", 204, LONG, "permission denied (AccessDenied)"),
    ("timeout", 41, "s3://media/2026/11/uploads/slow.tif", "the read timed out after 4 attempts"),
    (
        "too_large",
        9,
        "s3://media/2026/11/uploads/scan.tif",
        "30,000 × 20,000 pixels, over the limit of 100,000,000 (--max-pixels)",
    ),
    ("crashed", 1, "s3://media/2026/11/uploads/bomb.heic", "the decoder died (signal 11)"),
]


def summary() -> dict[str, Any]:
    """A summary of 1,110,457 objects, as `Summary.as_dict` gives it."""
    scored = sum(_HISTOGRAM)
    status = {"ok": scored, **{name: count for name, count, _, _ in _ERRORS}}
    rows, unreadable = sum(status.values()), sum(count for name, count, _, _ in _ERRORS if name != "unsupported")
    block, review = sum(_HISTOGRAM[16:]), sum(_HISTOGRAM[4:16])
    decision = {"allow": scored - block - review, "undetermined": unreadable + 12_884, "review": review, "block": block}
    return {
        "rows": rows,
        "bytes": 3_402_118_220_004,
        "flagged": block + review,
        "unreadable": unreadable,
        "error_rate": unreadable / (rows - 12_884),
        "unsupported": 12_884,
        "unsupported_rate": 12_884 / rows,
        "match_bank": {},
        "status": status,
        "decision": decision,
        "label": {"neutral": scored - 10_961, "nsfw": 10_961},
        "rule": {
            "otherwise": decision["allow"],
            "no-image": 12_884,
            "borderline": review,
            "explicit": block,
            "unreadable": unreadable,
        },
        "queue": {"adult": block + review, "ingest": unreadable},
        "format": {"JPEG": 902_114, "PNG": 120_933, "WEBP": 61_020, "HEIF": 11_733, "GIF": 1_203, "TIFF": 12},
        "nsfw_score_histogram": _HISTOGRAM,
        "most_severe": [
            {
                "uri": "s3://media/a b.jpg",
                "decision": "block",
                "rule": "explicit",
                "queue": "adult",
                "severity": 3,
                "nsfw_score": 0.9876,
            },
            {
                "uri": "s3://media/known.jpg",
                "decision": "block",
                "rule": "known-bad",
                "queue": "known",
                "severity": 3,
                "nsfw_score": None,
            },
        ],
        "errors": [{"status": s, "count": n, "example": uri, "message": message} for s, n, uri, message in _ERRORS],
        "truth": {
            "by_category": {"neutral": 20_004, "porn": 801, "sexy": 322},
            "neutral": 19_980,
            "false_positives": 214,
            "false_positive_rate": 214 / 19_980,
            "by_label": {"nsfw": {"count": 214, "rate": 214 / 19_980}},
            "by_decision": {
                "review": {"count": 402, "rate": 402 / 19_980},
                "block": {"count": 31, "rate": 31 / 19_980},
                "escalate": {"count": 0, "rate": 0.0},
            },
            "suspected": 96,
        },
    }


def config() -> dict[str, Any]:
    """A configuration, as `ScanConfig.public` gives it."""
    storage = {
        "endpoint_url": None,
        "region": "eu-central-1",
        "profile": None,
        "anonymous": False,
        "requester_pays": False,
    }
    return {
        "source": {
            "uris": ["s3://media/2026/11/", "s3://media-eu/2026/11/"],
            "include": [],
            "exclude": ["*.mp4"],
            "limit": None,
            "truth": "path",
        },
        "out": "s3://reports/media",
        "storage": storage,
        "out_storage": None,
        "read": {
            "max_bytes": 67_108_864,
            "concurrency": 16,
            "timeout_s": 60.0,
            "attempts": 4,
            "max_requests_per_s": None,
        },
        "decode": {"max_pixels": 100_000_000},
        "model": {"uri": "embedded:open-nsfw", "dtype": "auto", "batch_size": None, "labels": {}},
        "policy": None,
        "report": {"mode": "snapshot", "save_images": False, "max_error_rate": 0.05},
        "previous": {"reuse": True},
        "engine": {"address": None, "num_cpus": None, "shard_rows": 256, "seed": 0},
    }


def cost(**changes: Any) -> dict[str, Any]:
    """Return the cost of a run, as `Cost.as_json` gives it."""
    return {
        "objects": 1_110_457,
        "hours": 1.529,
        "core_hours": 122.32,
        "gpu_hours": 1.529,
        "requests": {"get": 1_110_457, "list": 1112, "bytes": 3_402_118_220_004},
        "currency": "USD",
        "amount": 7.17,
        "missing": None,
        "prices": "on-demand list prices, AWS us-east-1, check yours (2026-08-26)",
        "per_million": 6.457,
        "steady": True,
        **changes,
    }


def record() -> dict[str, Any]:
    """Return the content of a `run.json`, in the shape that `record_of` gives it."""
    counted = summary()
    errored = counted["rows"] - counted["status"]["ok"]
    digest = "9b1f0c6f2f7f4d5e8a3b6c7d8e9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b"
    keys = ("name", "when", "decision", "queue", "shield", "severity")
    plain = {"skill": None, "sample": None, "seed": 0}
    run_id = "20261122T031012Z"
    return {
        **record_of(run_id),
        "run_id": run_id,
        "store": "s3://reports/media",
        "store_endpoint": None,
        "exit_code": 0,
        "reason": None,
        "committed_at": "2026-11-22T04:41:57+00:00",
        "nsfwscan": "1.0.0",
        "python": "3.12.3",
        "libraries": {
            "ray": "2.51.0",
            "onnxruntime": "1.23.2",
            "pillow": "12.0.0",
            "pyarrow": "22.0.0",
            "duckdb": "1.4.2",
        },
        "config": config(),
        "model": {
            "identity": f"open-nsfw@{digest[:16]}",
            "name": "open-nsfw",
            "uri": "embedded:open-nsfw",
            "sha256": digest,
            "labels": {"sfw": "neutral", "nsfw": "nsfw"},
        },
        "policy": {
            "identity": "open-nsfw@77aa01be5c1d9e20",
            "name": "open-nsfw",
            "version": "2026-11-01",
            "description": "For the embedded open_nsfw, by its authors' own guidance: below 0.2 an image is safe with high probability.\n",
            "thresholds": {},
            "regions": {},
            "queues": [],
            "rules": [{**dict(zip(keys, rule, strict=True)), **plain} for rule in _RULES],
            "otherwise": {"decision": "allow", "queue": None, "skill": None, "shield": "none", "severity": 0},
            "overrides": [],
        },
        "plan": {
            "listed": counted["rows"] + 1_204,
            "distinct": counted["rows"],
            "repeated": 1_204,
            "shards": 4_338,
            "actions": {"new": counted["rows"]},
            "listed_at": "2026-11-22T03:10:12+00:00",
            "truth": None,
        },
        "balance": {
            "listed": counted["rows"],
            "scored": counted["status"]["ok"],
            "matched": 0,
            "duplicate": 0,
            "filtered": 0,
            "carried": 0,
            "errored": errored,
        },
        "timings": {"listing_s": 41.2, "scan_s": 5_402.118, "commit_s": 61.44, "resumed_shards": 0},
        "images_per_s": 205.56,
        "machine": {
            "nodes": [
                {"count": 4, "cpus": 16.0, "gpus": 0.0, "gpu": None, "cpu": "AMD EPYC 7R13", "memory_bytes": 2**35},
                {"count": 1, "cpus": 16.0, "gpus": 1.0, "gpu": "A10G", "cpu": None, "memory_bytes": 2**36},
            ],
            "layout": {
                **{"kind": "split", "cpu_actors": 78, "model_actors": 1, "gpus_per_model_actor": 1.0},
                **{"cpus_per_actor": 0.9, "threads": 1},
            },
        },
        "cost": cost(),
        "summary": counted,
        "files": [*files("report", 3, 370_000), *files("false_positives", 1, 310)],
    }


def nightly_record() -> dict[str, Any]:
    """A run that goes on from two earlier ones: most rows are carried, some objects are gone, some flags are new."""
    made = record()
    made["config"]["source"]["exclude"] = []
    listed = made["plan"]["distinct"]
    looked_at = {"new": 11_003, "changed": 17, "failed": 515}
    carried = listed - sum(looked_at.values())
    made["parent"] = {"run_id": "20261121T031009Z", "sha256": "5e" * 32}
    made["previous_runs"] = ["20261121T031009Z", "20261120T031011Z"]
    moved = {"new": 10_591, "decided": 31, "routed": 1_204, "content": 12}
    causes = {"listing": 31_000, "content": 17, "policy": 1_238}
    made["changes"] = {"deleted": 20_113, "newly_flagged": 412, "cleared": 3, **moved, "causes": causes}
    made["plan"]["actions"] = {"carried": carried, **looked_at}
    made["balance"] |= {"scored": 10_900, "carried": carried, "errored": 635}
    made["files"] += files("changes", 1, 20_528)
    return made


def replay_record() -> dict[str, Any]:
    """A replay, by a policy with all that there can be in one, beside two shadows."""
    made = nightly_record()
    made["kind"] = "replay"
    change = {"decision": None, "queue": "adult-eu", "skill": None, "shield": None, "severity": 4}
    override = {"source": None, "region": "eu", "thresholds": {"explicit": 0.7}, "rules": {"borderline": change}}
    place = {"source": "s3://media-eu/" + "kids/" * 60, "region": None, "thresholds": {"explicit": 0.5}, "rules": {}}
    made["policy"] |= {"thresholds": {"explicit": 0.8}, "regions": {"eu": ["s3://eu/"]}, "overrides": [override, place]}
    made["policy"]["rules"][1] |= {"skill": "calm", "sample": 0.0005, "seed": 7}
    made["summary"]["queue"]["adult-eu"] = 12
    values = [{"value": "review", "before": 5, "after": 1_204}, {"value": None, "before": 9, "after": 0}]
    moves = [{"from": "allow", "to": "review", "objects": 1_199, "samples": ["s3://media-eu/" + "x" * 300, "s3://b"]}]
    counts = {"rows": 1_110_457, "moved": 1_199, "elsewhere": 77, "moves": moves, **dict.fromkeys(COMPARED, values)}
    made["shadow_policies"] = [
        {"policy": "strict@0011223344556677", "version": "2", **counts},
        {"policy": "same@8899aabbccddeeff", "version": "1", **counts, "moved": 0, "elsewhere": 0, "moves": []},
    ]
    return made


def delta_record() -> dict[str, Any]:
    """Return the same, of which only what was looked at or decided differently is written."""
    made = nightly_record()
    made["config"]["report"]["mode"] = "delta"
    made["files"] = [*files("report", 2, 6_000), *files("changes", 1, 20_528)]
    return made


def files(folder: str, count: int, rows: int) -> list[dict[str, Any]]:
    """Committed files of one folder, as `run.json` lists them."""
    shas = [f"{i:02x}{'7c19e2d4' * 8}"[:64] for i in range(count)]
    return [
        {"path": f"{folder}/part-{i:05d}-{sha}.parquet", "rows": rows, "bytes": rows * 311, "sha256": sha}
        for i, sha in enumerate(shas)
    ]


def empty_record() -> dict[str, Any]:
    """A run over nothing: every count is zero, and what divides by it is None."""
    made = record()
    nothing = dict.fromkeys(("rows", "bytes", "flagged", "unreadable", "unsupported", "unsupported_rate"), 0)
    truth = {
        "by_category": {},
        "neutral": 0,
        "false_positives": 0,
        "false_positive_rate": None,
        "by_label": {},
        "by_decision": {},
        "suspected": 0,
    }
    counts: dict[str, dict[str, int]] = {
        name: {} for name in ("status", "decision", "label", "rule", "queue", "format", "match_bank")
    }
    made["summary"] = {
        **nothing,
        "error_rate": 0.0,
        **counts,
        "nsfw_score_histogram": [0] * 20,
        "errors": [],
        "truth": truth,
    }
    made["balance"] = dict.fromkeys(made["balance"], 0)
    made["plan"] |= {"listed": 0, "distinct": 0, "repeated": 0, "shards": 0, "actions": {}}
    made["images_per_s"], made["files"] = None, []
    return made


def over_record() -> dict[str, Any]:
    """A run over the error rate."""
    reason = "1,773 images could not be read, 0.2%, over --max-error-rate 0.1%"
    made = {**record(), "exit_code": 4, "reason": reason}
    made["config"]["report"]["max_error_rate"] = 0.001
    return made


def page_of(made: dict[str, Any]) -> str:
    return render_summary(as_record(made))
