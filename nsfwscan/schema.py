"""The columns of the report, and the words that stand in them.

Every field carries its own documentation (`doc` in the field's metadata), so the meaning travels inside the Parquet;
the table in README.md is checked against it. Changes are additive only: a column is never renamed, retyped or removed.
Version 2 was the one exception, before any release: see `TIMESTAMP` and `SIGNALS`. Reports of version 1 are cast as
they are read (`as_schema`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.errors import ErrorCode, Status

SCHEMA_VERSION = "2"


class Accounted(StrEnum):
    """Where an object stands in the balance; exactly one for each."""

    SCORED = "scored"
    MATCHED = "matched"
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    CARRIED = "carried"
    ERRORED = "errored"


class Decision(StrEnum):
    """What the policy says should happen to an object."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"
    ESCALATE = "escalate"
    UNDETERMINED = "undetermined"


class Change(StrEnum):
    """What became of an object since the run that this one goes on from; the first that is true."""

    DELETED = "deleted"
    NEWLY_FLAGGED = "newly_flagged"
    CLEARED = "cleared"
    NEW = "new"
    DECIDED = "decided"
    ROUTED = "routed"
    CONTENT = "content"


class Cause(StrEnum):
    """Why an object stands in the changes. All that are true are named, in this order."""

    LISTING = "listing"
    CONTENT = "content"
    READ = "read"
    BANK = "bank"
    FILTER = "filter"
    MODEL = "model"
    CALIBRATION = "calibration"
    COPIES = "copies"
    VERDICT = "verdict"
    POLICY = "policy"
    OTHER = "other"


class StandingVerdict(StrEnum):
    """What people's verdicts on a content come to; see `verdicts/standing.py`."""

    APPROVE = "approve"
    REMOVE = "remove"
    ESCALATE = "escalate"
    DISPUTED = "disputed"
    """As many approve as remove it."""


FLAGGED = frozenset({Decision.REVIEW, Decision.BLOCK, Decision.ESCALATE})


class Shield(StrEnum):
    """How an image is covered before a person sees it."""

    NONE = "none"
    BLUR = "blur"
    GRAYSCALE = "grayscale"
    HIDDEN = "hidden"


class BankKind(StrEnum):
    """What it means to be in a hash bank."""

    BLOCK = "block"
    ALLOW = "allow"
    NEGATIVE = "negative"
    """Known false matches: what is in it matches no other bank by a perceptual hash, but `illegal` ones."""
    ILLEGAL = "illegal"


class Category(StrEnum):
    """What a model can call an image: the five classes of the training data, and `nsfw` of binary models."""

    DRAWINGS = "drawings"
    HENTAI = "hentai"
    NEUTRAL = "neutral"
    PORN = "porn"
    SEXY = "sexy"
    NSFW = "nsfw"


NSFW_CATEGORIES = frozenset({Category.HENTAI, Category.PORN, Category.SEXY, Category.NSFW})

TIMESTAMP = pa.timestamp("us")
"""UTC. Without a zone in the type: DuckDB's `fetchall()` needs pytz for one, and compares it with a written time as of
the zone of the machine. Was `timestamp[us, tz=UTC]` in version 1."""

SIGNALS = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.float32())]))
"""Names with numbers: what a map is made of. Hugging Face's `datasets` cannot load a map, nor pandas write one. Was
`map<string, float>` in version 1."""


def score_column(category: Category) -> str:
    """Return the report column that holds one category's probability, e.g. `score_neutral`."""
    return f"score_{category}"


def _column(name: str, kind: pa.DataType, doc: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


OBJECT_COLUMNS = [
    _column("uri", pa.string(), "where the object is: a path, `s3://…`, or any fsspec URI", nullable=False),
    _column("size", pa.int64(), "bytes, as read; as listed where it was not read"),
    _column("etag", pa.string(), "the store's version tag, as returned by the read"),
    _column("modified_at", TIMESTAMP, "last modification, as listed; UTC"),
    _column("object_id", pa.string(), "first 32 hex digits of the URI's SHA-256: a safe name for the object"),
]
CONTENT_COLUMNS = [
    _column("sha256", pa.string(), "SHA-256 of the bytes, hex"),
    _column("md5", pa.string(), "MD5 of the bytes, hex: what the older hash banks hold"),
    _column("pdq", pa.string(), "PDQ hash of the first frame, hex (256 bits)"),
    _column("pdq_quality", pa.int32(), "how much there is for PDQ to go by, 0 to 100; trust 50 and more"),
    _column("format", pa.string(), "by content, never by name: `JPEG`, `PNG`, `HEIF`, …"),
    _column("width", pa.int64(), "pixels, as displayed (after EXIF orientation)"),
    _column("height", pa.int64(), "pixels, as displayed (after EXIF orientation)"),
    _column("frames", pa.int64(), "frames or pages in the file"),
    _column("media", pa.string(), "`image`, `animation` where its frames follow each other in time, `video`"),
    _column("duration_s", pa.float64(), "seconds from the first frame to the end of the last one; null for an image"),
    _column("views", pa.int32(), "frames or pages that are looked at: those that look different, up to `views.most`"),
    _column("camera", pa.string(), "EXIF make and model"),
    _column("software", pa.string(), "EXIF software tag"),
]
OUTCOME_COLUMNS = [
    _column(
        "status", pa.string(), "`ok`, or why there are no pixels: " + ", ".join(f"`{s}`" for s in Status if s != "ok")
    ),
    _column("error", pa.string(), "what happened, for a person; null where nothing went wrong"),
    _column("error_code", pa.string(), "the same in one word of [a closed list](#error-codes); null where `error` is"),
    _column(
        "accounted_as", pa.string(), "the object's place in the balance: " + ", ".join(f"`{a}`" for a in Accounted)
    ),
    _column(
        "filtered_by", pa.string(), "the filter that kept a benign image from the model: `icon`, `flat` or `prefilter`"
    ),
    _column(
        "failed_decodes",
        pa.int32(),
        "runs, one after the other, in which these bytes crashed the decoder or took it too long; else null",
    ),
]
MODEL_COLUMNS = [
    _column("model", pa.string(), "`name@digest` of the weights that scored the object"),
    _column("label", pa.string(), "the category with the highest probability"),
    _column("confidence", pa.float32(), "that category's probability, 0 to 1"),
    _column(
        "nsfw_score",
        pa.float32(),
        "sum over the NSFW categories, 0 to 1; what the policy goes by. Of several views, all scores are means over "
        "the worst ones (`views.worst`), and `signals['view.max']` is the worst one's `nsfw_score`",
    ),
    _column("worst_view", pa.int32(), "the frame with the highest `nsfw_score`, from 0; null for one view"),
    _column("worst_at_s", pa.float64(), "seconds from the beginning until that frame; null where it has no time"),
    *(
        _column(score_column(c), pa.float32(), f"probability of `{c}`; null where the model has no such class")
        for c in Category
    ),
]
CALIBRATED = _column(
    "calibrated_score",
    pa.float32(),
    "probability that people would remove it, made from `nsfw_score` by the store's calibration of the model "
    "(`nsfwscan calibrate`); null without one, and where `nsfw_score` is null",
)
"""Filled at commit, for rows that were carried over, too."""
SIGNAL_COLUMNS = [
    _column(
        "signals",
        SIGNALS,
        "what further detectors say (`<detector>.<label>`, 0 to 1), what the file says of its making, how whole it is: "
        "a list of `{name, value}`; in a policy's rules a map, `signals['name']`",
    )
]
SIGNAL_GROUPS = (
    "boxes", "c2pa", "decode", "exif", "file", "gate", "generator", "iptc", "jpeg", "lines", "prefilter",
    "screenshot", "software", "thumbnail", "vectors", "view",
)  # fmt: skip
"""What signals begin with that are not a detector's; a dot follows."""
TEXT_COLUMNS = [
    _column(
        "text_language",
        pa.string(),
        "language (ISO 639-1) of the text that a detector read in the picture; null for 20 characters or fewer",
    ),
    _column(
        "link_host",
        pa.string(),
        "host that a code in the picture leads to; of several, a blocked one, else one on no list, else an allowed one",
    ),
]
"""What detectors that read pictures say in words."""
VIEW_COLUMNS = [
    _column("index", pa.int32(), "the frame or page, from 0; of a picture in tiles, the tile, from 1"),
    _column("at_s", pa.float64(), "seconds from the beginning until it is shown; null for a page"),
    _column(
        "reason",
        pa.string(),
        "why it was looked at: `first`, `last`, `spread` or `page` (in even distances), `distinct` (unlike all), "
        "`spike` (near a frame that scored high), `tile` (a part of a picture, with `--tiles`)",
    ),
    _column(
        "weight",
        pa.int32(),
        "how often it counts among the worst views: once for each tenth of a second that it and the frames that look "
        "like it are shown, and for each such frame at least; a page counts in full",
    ),
    _column("width", pa.int64(), "pixels of the frame or page; null where all are as large as the object"),
    _column("height", pa.int64(), "pixels, likewise"),
    _column("place", pa.string(), "where a tile is: left, top, right, bottom in pixels as displayed; null for others"),
    *CONTENT_COLUMNS[2:4],
    *(field for field in MODEL_COLUMNS if field.name not in ("model", "worst_view", "worst_at_s")),
]
VIEW_SCHEMA = pa.schema([OBJECT_COLUMNS[0], *VIEW_COLUMNS])
"""One row for each view of an object that has several: `views/` in a run."""
EACH_VIEW = _column("each_view", pa.list_(pa.struct(VIEW_COLUMNS)), "the views, where there are several")
"""In a row that is not written yet."""
DETECTION_COLUMNS = [
    _column("view", pa.int32(), "the frame or page that it is in, from 0"),
    _column("detector", pa.string(), "the name of the detector"),
    _column("label", pa.string(), "what it found, in the detector's words"),
    _column("score", pa.float32(), "how sure it is, 0 to 1"),
    _column("x", pa.float32(), "left edge, in shares of the view's width"),
    _column("y", pa.float32(), "upper edge, in shares of the view's height"),
    _column("w", pa.float32(), "width, in shares of the view's width"),
    _column("h", pa.float32(), "height, in shares of the view's height"),
]
DETECTION_SCHEMA = pa.schema([OBJECT_COLUMNS[0], *DETECTION_COLUMNS])
"""One row for each box that a detector found: `detections/` in a run."""
EACH_DETECTION = _column("each_detection", pa.list_(pa.struct(DETECTION_COLUMNS)), "what detectors found, as boxes")
"""In a row that is not written yet."""
EMBEDDING_COLUMNS = [
    CONTENT_COLUMNS[0],
    _column("view", pa.int32(), "the frame or page that it describes, from 0"),
    _column("detector", pa.string(), "the name of the detector"),
    _column("vector", pa.list_(pa.float32()), "the embedding, of length 1: a dot product is a cosine"),
]
EMBEDDING_SCHEMA = pa.schema([OBJECT_COLUMNS[0], *EMBEDDING_COLUMNS])
"""One row for each embedding: `embeddings/` in a run. Vectors may have any length: several detectors share a file."""
EACH_EMBEDDING = _column("each_embedding", pa.list_(pa.struct(EMBEDDING_COLUMNS)), "what detectors give as vectors")
"""In a row that is not written yet."""
LINE_COLUMNS = [
    _column("view", pa.int32(), "the frame or page that it is in, from 0"),
    _column("detector", pa.string(), "the name of the detector"),
    _column("line", pa.int32(), "its place in the order in which the view is read, from 0"),
    _column("kind", pa.string(), "`line`, or the symbology of a code"),
    _column("text", pa.string(), "what stands there; null where it is encrypted"),
    _column("sealed", pa.binary(), "the same, encrypted for the holder of a key (`text.key`); else null"),
    _column("key", pa.string(), "the id of that key"),
    _column("score", pa.float32(), "how sure the detector is, 0 to 1"),
    *DETECTION_COLUMNS[-4:],
]
LINE_SCHEMA = pa.schema([OBJECT_COLUMNS[0], *LINE_COLUMNS])
"""One row for each line of text that was read in a picture: `text/` in a run."""
EACH_LINE = _column("each_line", pa.list_(pa.struct(LINE_COLUMNS)), "what was read in the picture, line by line")
"""In a row that is not written yet."""
MATCH_COLUMNS = [
    _column("match_bank", pa.string(), "the hash bank that the content was found in"),
    _column("match_bank_version", pa.string(), "the version of that bank: the first 16 digits of `run.json`'s"),
    _column("match_id", pa.string(), "the entry: its id in the bank, or the hash itself"),
    _column(
        "match_kind", pa.string(), "what the bank is for: " + ", ".join(f"`{k}`" for k in BankKind if k != "negative")
    ),
    _column("match_hash", pa.string(), "which hash was found there: `sha256`, `md5` or `pdq`"),
    _column("match_distance", pa.int32(), "bits in which the hashes differ; 0 for `sha256` and `md5`"),
    _column("match_view", pa.int32(), "of several views, the frame or page that is in the bank, from 0; else null"),
    _column("match_at_s", pa.float64(), "seconds from the beginning until that frame; null where it has no time"),
    _column("match_pdq", pa.string(), "PDQ hash of that frame, hex"),
    _column(
        "match_share",
        pa.float32(),
        "share of the object's views that look like hashes of this entry (`match_id`); null for one view",
    ),
    _column(
        "match_entry_share",
        pa.float32(),
        "share of the hashes with this `match_id`, as those of a video, that views of the object look like; null for "
        "one view",
    ),
]
DUPLICATE_COLUMNS = [
    _column("duplicate_of", pa.string(), "the URI of the object with the same bytes whose scores these are"),
    _column("cluster", pa.string(), "id of the near-duplicates that this object is one of"),
    _column("cluster_size", pa.int64(), "different contents in the cluster"),
    _column("cluster_places", pa.int64(), "objects that show one of the cluster's contents"),
]
VERDICT_COLUMNS = [
    _column(
        "verdict",
        pa.string(),
        "what people's verdicts on these bytes come to: "
        + ", ".join(f"`{v}`" for v in StandingVerdict)
        + "; null without one",
    ),
    _column("verdict_at", TIMESTAMP, "when the latest person said so; UTC"),
    _column("appeals", pa.int32(), "verdicts on appeals among them; null without a verdict"),
]
DECISION_COLUMNS = [
    _column("decision", pa.string(), ", ".join(f"`{d}`" for d in Decision)),
    _column("rule", pa.string(), "the policy rule that decided"),
    _column(
        "queue",
        pa.string(),
        "the review queue that the rule names, else the decision's name; null where nobody is to look",
    ),
    _column("skill", pa.string(), "what a reviewer of it must be able to do, from the rule"),
    _column("shield", pa.string(), "how to cover the image for a reviewer: " + ", ".join(f"`{s}`" for s in Shield)),
    _column("severity", pa.int32(), "0 (harmless) to 4 (worst), from the rule"),
    _column(
        "decided_by",
        pa.string(),
        "`policy`; `guard` where a row without a score was kept from `allow`; `filter` where a filter kept it from the "
        "model; `bank` where the kind of the hash bank left no choice; `person` where people decided and no rule names "
        "the verdict",
    ),
    _column("policy", pa.string(), "`name@digest` of the policy"),
]
AUDIT_COLUMNS = [
    _column("truth", pa.string(), "the category that a person gave, where known"),
    _column(
        "false_positive", pa.bool_(), "truth is neutral and the label an NSFW category; null without truth or label"
    ),
    _column("run_id", pa.string(), "the run that wrote the row"),
    _column("carried_from", pa.string(), "the run that looked at the object, where nothing changed since; else null"),
    _column("scanned_at", TIMESTAMP, "when the object was read; UTC"),
]

WORDS: dict[str, tuple[str, ...]] = {
    "status": tuple(map(str, Status)),
    "error_code": tuple(map(str, ErrorCode)),
    "label": tuple(map(str, Category)),
    "match_kind": tuple(str(kind) for kind in BankKind if kind != BankKind.NEGATIVE),
    "match_hash": ("sha256", "md5", "pdq"),
    "filtered_by": ("icon", "flat", "prefilter"),
    "media": ("image", "animation", "video"),
    "verdict": tuple(map(str, StandingVerdict)),
}
"""All texts that a column has, of those that a policy may ask for; the formats are in `images/formats/`."""
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("nsfw_score", CALIBRATED.name, "confidence", *map(score_column, Category)), (0, 1)),
    "pdq_quality": (0, 100),
    "match_distance": (0, 256),
    **dict.fromkeys(("match_share", "match_entry_share"), (0, 1)),
    **dict.fromkeys(("match_view", "match_at_s"), (0, float("inf"))),
    "failed_decodes": (1, float("inf")),
    **dict.fromkeys(("size", "cluster_size", "cluster_places", "appeals"), (0, float("inf"))),
    **dict.fromkeys(("width", "height", "frames", "views"), (1, float("inf"))),
    **dict.fromkeys(("duration_s", "worst_view", "worst_at_s"), (0, float("inf"))),
}
"""Least and greatest number of a column."""

REFUSED = _column("refused", pa.string(), "why it must not be read; null where it may be")
LISTING_SCHEMA = pa.schema([*OBJECT_COLUMNS[:4], AUDIT_COLUMNS[0], REFUSED])
"""What listing knows of an object: `uri, size, etag, modified_at, truth, refused`."""

BYTES = pa.field("bytes", pa.large_binary())
"""Encoded bytes, between `read` and `decode`; never leaves the actor."""

LEFT_TO_GPU = pa.field(
    "left_to_gpu", pa.struct([pa.field("file", pa.large_binary()), pa.field("orientation", pa.int8())])
)
"""A JPEG that the GPU decodes, and its EXIF orientation; null of all other files, whose pixels are there."""

REUSED = _column("reused", pa.bool_(), "whether the scores are those of the same bytes, seen just before")
AUDIT_SAMPLE = _column("audit_sample", pa.bool_(), "settled by a filter, and scored all the same")
SANDBOX = _column("sandbox", pa.string(), "which layers of the sandbox held where the file was decoded")
COST = _column("cost", SIGNALS, "seconds that decoding and each model took for it")
DECODING, LOOKED = "decode", "frames"
"""Among the costs: seconds that decoding took, and, which is no time, the number of frames that were looked at."""
DECODING_CLOSER, LOOKED_CLOSER = "decode, second look", "frames, second look"
"""Among the costs: the same of a second look."""
LOOK_CLOSER = pa.field(
    "look_closer",
    pa.struct(
        [
            pa.field("frames", pa.list_(pa.int32())),
            pa.field("views", pa.int32()),
            pa.field("only", pa.bool_()),
        ]
    ),
)
"""In a listing for a second look: the frames to look at, from 0, the most important ones first (none of a picture: it
is cut into tiles); how many of them may become views; whether those are all views that are wanted, as for a cover."""
FULL_BATCH = "classify, full batches"
"""Among the costs: seconds that the model would have taken for it in a batch without room to spare."""
"""Known while a run is worked on; the report has what they add up to."""

STAGED_SCHEMA = pa.schema(
    [
        *OBJECT_COLUMNS,
        *CONTENT_COLUMNS,
        *OUTCOME_COLUMNS,
        *MODEL_COLUMNS,
        *SIGNAL_COLUMNS,
        EACH_VIEW,
        EACH_DETECTION,
        EACH_EMBEDDING,
        *TEXT_COLUMNS,
        EACH_LINE,
        *MATCH_COLUMNS,
        AUDIT_COLUMNS[0],
        AUDIT_COLUMNS[-1],
        REUSED,
        COST,
        SANDBOX,
    ]
)
"""A finished shard before anything was decided."""

GROUPS: dict[str, list[pa.Field]] = {
    "object": OBJECT_COLUMNS,
    "content": CONTENT_COLUMNS,
    "outcome": OUTCOME_COLUMNS,
    "model": [*MODEL_COLUMNS, CALIBRATED, *SIGNAL_COLUMNS, *TEXT_COLUMNS],
    "match": [*MATCH_COLUMNS, *DUPLICATE_COLUMNS],
    "verdict": VERDICT_COLUMNS,
    "decision": DECISION_COLUMNS,
    "audit": AUDIT_COLUMNS,
}

REPORT_SCHEMA = pa.schema(
    [field for fields in GROUPS.values() for field in fields],
    metadata={"nsfwscan.schema_version": SCHEMA_VERSION},
)
"""One row for every listed object."""


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly the schema's columns; those that it lacks are null."""
    if table.schema.equals(schema, check_metadata=True):
        return table
    there, rows = set(table.column_names), table.num_rows
    columns = [_as_type(table[f.name], f.type) if f.name in there else pa.nulls(rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type.equals(kind) else column.cast(kind)  # a cast to the same type costs time, too


def as_matrix(column: pa.FixedSizeBinaryArray) -> NDArray[np.uint8]:
    """Return values of one width as uint8 [rows, bytes] without a copy; null rows hold arbitrary bytes."""
    width = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return flat[column.offset * width : (column.offset + len(column)) * width].reshape(len(column), width)


def in_utc(time: datetime | None) -> str | None:
    """Return a time of the report in ISO 8601, with its zone."""
    return None if time is None else time.replace(tzinfo=UTC).isoformat()


def column_doc(field: pa.Field) -> str:
    """Return the sentence that documents a report column."""
    doc: bytes = (field.metadata or {}).get(b"doc", b"")
    return doc.decode()
