"""Stop a run whose listing lacks too many objects of previous runs: an incomplete listing looks like deletions.

`check_losses` raises `TooManyDeleted`, with numbers and examples, before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ScanConfig
from nsfwscan.errors import TooManyDeleted
from nsfwscan.runs.previous import PreviousRun, belongs_to
from nsfwscan.sources.manifests import is_inventory, is_manifest
from nsfwscan.text import printable

_RATE = 0.2
_FEW = 20
"""This many objects may go, whatever their share, where no rate is set: people clear out small stores by hand."""
_EXAMPLES = 3


def check_losses(known: Iterable[pa.RecordBatch], config: ScanConfig, base: PreviousRun) -> None:
    """Count the known objects of the listed sources that are not listed any more, and raise where they are too many.

    Nothing is checked under `--limit` or filters, which leave objects out, nor, where no rate is set, for a manifest of
    another name, which may list other objects.

    Args:
        known: `uri` and `listed` (whether it is still listed); each URI once.
        base: the newest previous run.

    Raises:
        TooManyDeleted: their share exceeds `report.max_deleted_rate`.
    """
    source, rate = config.source, config.report.max_deleted_rate
    before = base.record.config.source.uris
    other_list = any(is_manifest(uri) and not is_inventory(uri) and uri not in before for uri in source.uris)
    if source.limit is not None or source.include or source.exclude or (rate is None and other_list):
        return
    total, gone, examples = 0, 0, list[str]()
    for batch in known:
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(belongs_to(rows["uri"], source.uris))
        lost = rows.filter(pc.invert(rows["listed"]))["uri"]
        total, gone = total + rows.num_rows, gone + len(lost)
        examples += lost.slice(0, _EXAMPLES - len(examples)).to_pylist()
    if gone <= (_RATE if rate is None else rate) * total or (rate is None and gone <= _FEW):
        return
    share = f"{gone / total:.1%}, over --max-deleted-rate {_RATE if rate is None else rate:g}"
    raise TooManyDeleted(
        f"{gone:,} of the {total:,} objects of run {base.run.run_id} are not listed any more ({share}), such as "
        f"{', '.join(map(printable, examples))}. Nothing was read or committed. Either the listing is not whole "
        "(another endpoint, prefix or manifest than meant, a mount that is away, a store in trouble): mend that, then "
        "run the same command again. Or they are gone: --max-deleted-rate 1 goes on"
    )
