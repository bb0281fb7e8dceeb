"""How much of what earlier runs knew is not listed any more: a listing that is not whole looks like deletions.

In: the known objects, and whether each is listed still. Out: nothing, or `TooManyDeleted` with numbers and examples.
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
"""Objects that may go whatever share they are, where no rate was given: small stores are cleared out by hand."""
_EXAMPLES = 3


def check_losses(known: Iterable[pa.RecordBatch], config: ScanConfig, base: PreviousRun) -> None:
    """Counts what is gone from the listed sources; not under `--limit` or filters, which leave things out, nor for a
    manifest of another name, which may well be a list of other objects.

    Args:
        known: `uri`, `listed`; each URI once.
        base: the newest run that knew them.

    Raises:
        TooManyDeleted: more than `report.max_deleted_rate` of them.
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
