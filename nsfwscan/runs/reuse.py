"""Decide which earlier rows are worth keeping: those that this run, over the same bytes, would make again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.config import ScanConfig, ViewsConfig
from nsfwscan.errors import Status
from nsfwscan.runs.escalations import is_illegal
from nsfwscan.runs.parts import with_all
from nsfwscan.runs.plan import Reusability
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import BankKind

_LASTING = (Status.DECODE_ERROR, Status.UNSUPPORTED, Status.TOO_LARGE)
"""Statuses that stay true while the object, the limits and the decoder do not change."""


_JUDGED = (
    "size", "status", "media", "frames", "nsfw_score", "width", "height", "match_bank", "match_kind", "filtered_by",
    "failed_decodes",
)  # fmt: skip


@dataclass(frozen=True)
class ReusePolicy:
    """Fingerprints, limits and banks of this run: an earlier row made with the same ones is reusable."""

    scoring: str
    """Fingerprint of model, preprocessing and precision."""
    decoding: str
    """Fingerprint of the decoder, by its version and plugins: which formats it can decode."""
    filtering: str
    """Fingerprint of the filters that run before the model."""
    max_bytes: int
    max_pixels: int
    max_video_bytes: int = 320 * 2**20
    timeout_s: float = 20.0
    max_memory_bytes: int = 2**31
    most_failures: int = 3
    """Runs in which a file may crash or stall the decoder; after that it is not read until it, or a limit, changes."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    banks: BankSet | None = None
    """This run's banks; unset: earlier matches stay as they are."""
    reuse: bool = True
    """False: no row is reusable, and every object is read again."""

    @property
    def columns(self) -> list[str]:
        """Report columns that decide reusability, beside the object's version."""
        asked = (*HASH_COLUMNS, "match_pdq") if self.banks is not None and self.banks.specs else ()
        return [*_JUDGED, *asked]

    def standing(self, rows: pa.Table, record: RunRecord) -> pa.Array:
        """Return the `Reusability` of each row of a run's report; rows with a status of `_LASTING` need no score."""
        if not self.reuse:
            return pa.array([str(Reusability.UNUSED)] * rows.num_rows, pa.string())
        made_with, limits = record.reuse_keys, record.config
        then = limits.read.max_bytes, limits.read.max_video_bytes, limits.decode.max_pixels
        same_limits = then == (self.max_bytes, self.max_video_bytes, self.max_pixels)
        same_decoding, same_scoring = made_with.decoding == self.decoding, made_with.scoring == self.scoring
        scored = pc.is_valid(rows["nsfw_score"])
        pixels = pc.multiply(pc.cast(rows["width"], pa.float64()), pc.cast(rows["height"], pa.float64()))
        is_video = pc.fill_null(pc.equal(rows["media"], "video"), False)
        for_videos = max(self.max_bytes, self.max_video_bytes)
        over = pc.or_(
            pc.fill_null(pc.greater(rows["size"], pc.if_else(is_video, for_videos, self.max_bytes)), False),
            pc.fill_null(pc.greater(pixels, self.max_pixels), False),
        )
        lasting = pc.or_(pc.is_in(rows["status"], pa.array([str(s) for s in _LASTING])), self._poison(rows, limits))
        # Too large for a limit, or only for the preprocessing of that model.
        too_large = pc.equal(rows["status"], str(Status.TOO_LARGE))
        still_too_large = pc.and_(same_limits, pc.or_(over, same_scoring))
        # Settled by a filter: good while the filters and the other models are the same.
        filtered = pc.and_not(pc.is_valid(rows["filtered_by"]), scored)
        same_filtering = same_scoring and made_with.filtering == self.filtering
        same = pc.and_(pc.if_else(filtered, same_filtering, same_scoring), self._same_views(rows, limits.views))
        good = pc.if_else(
            pc.or_(scored, filtered),
            pc.and_(pc.invert(over), same),
            pc.and_(pc.and_(lasting, same_decoding), pc.or_(pc.invert(too_large), still_too_large)),
        )
        bad = pc.if_else(pc.or_(pc.or_(scored, filtered), lasting), str(Reusability.STALE), str(Reusability.FAILED))
        found = pc.if_else(good, str(Reusability.GOOD), bad)
        return found if self.banks is None else _by_banks(found, rows, record, self.banks)

    def _same_views(self, rows: pa.Table, then: ViewsConfig) -> pa.ChunkedArray:
        """Return a mask of the rows whose views are those that this run would look at. A picture has one view, whatever
        is asked of others, unless it may be cut into tiles."""
        alone = pc.and_(pc.equal(rows["media"], "image"), pc.equal(rows["frames"], 1))
        return pc.or_(then == self.views, pc.and_(not (then.tiles or self.views.tiles), pc.fill_null(alone, False)))

    def _poison(self, rows: pa.Table, limits: ScanConfig) -> pa.ChunkedArray:
        """Return a mask of the rows whose files crashed or stalled the decoder too often, under this run's limits."""
        then = limits.decode.timeout_s, limits.decode.max_memory_bytes
        too_often = pc.fill_null(pc.greater_equal(rows["failed_decodes"], self.most_failures), False)
        return pc.and_(too_often, then == (self.timeout_s, self.max_memory_bytes))


def banks_behind(record: RunRecord) -> list[str]:
    """Return `name@version` of the banks that a run's rows were matched with, in their order."""
    return [bank.identity for bank in record.banks]


def _by_banks(standing: pa.ChunkedArray, rows: pa.Table, record: RunRecord, banks: BankSet) -> pa.ChunkedArray:
    """Return the standings, corrected for this run's banks.

    A row settled by a match is good while it still matches. A row that matches an illegal bank is good whatever
    changed: its object is never decoded again. A row that lacks a hash of a type in the banks is stale.
    """
    scoreless, matched = pc.is_null(rows["nsfw_score"]), pc.is_valid(rows["match_kind"])
    settled = pc.and_(matched, pc.or_(scoreless, is_illegal(rows)))
    kinds = rows["match_kind"]
    if pc.any(settled).as_py() and banks_behind(record) != banks.identities:
        asked = with_all(rows.filter(settled), [*HASH_COLUMNS, *MATCH.names])
        kinds = pc.replace_with_mask(_flat(kinds), _flat(settled), _flat(banks.matched_again(asked)["match_kind"]))
    is_ok = pc.equal(rows["status"], str(Status.OK))
    gone = pc.and_(pc.and_(settled, scoreless), pc.and_(is_ok, pc.is_null(kinds)))
    still = pc.and_(pc.and_(settled, scoreless), pc.is_valid(kinds))
    illegal = pc.fill_null(pc.equal(kinds, str(BankKind.ILLEGAL)), False)
    lacking = pc.and_(pc.equal(standing, str(Reusability.GOOD)), _lacks_a_hash(rows, is_ok, banks.kinds))
    stale = pc.if_else(pc.or_(gone, lacking), str(Reusability.STALE), standing)
    return pc.if_else(pc.or_(illegal, pc.and_not(still, lacking)), str(Reusability.GOOD), stale)


def _lacks_a_hash(rows: pa.Table, is_ok: pa.ChunkedArray, kinds: frozenset[str]) -> pa.ChunkedArray:
    """Return a mask of the rows that were scanned before a hash type of the banks existed."""
    lacking = pc.and_(is_ok, False)
    if "md5" in kinds:
        lacking = pc.or_(lacking, pc.and_(pc.is_valid(rows["sha256"]), pc.is_null(rows["md5"])))
    if "pdq" in kinds:
        lacking = pc.or_(lacking, pc.and_(is_ok, pc.is_null(rows["pdq"])))
    return lacking


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
