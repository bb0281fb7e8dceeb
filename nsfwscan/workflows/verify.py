"""Verify a run, or all committed runs of a store together with their chain."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsfwscan.config import StorageConfig
from nsfwscan.errors import StoreError
from nsfwscan.runs.calibrations import verify_calibrations
from nsfwscan.runs.catalogue import check_catalogue
from nsfwscan.runs.chain import Chain, Link, read_chain
from nsfwscan.runs.evidence import Anchors, Proofs, read_anchors
from nsfwscan.runs.finding import Finding, Kind, tampered
from nsfwscan.runs.run import Run, committed_runs
from nsfwscan.runs.verdict_parts import verify_verdicts
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Verified:
    """Findings of a verification.

    Attributes:
        name: id of the run; `verdicts` for findings in what people decided, `calibrations` for those in calibrations;
            `store` for other findings that are no single run's.
        is_head: whether the run is a head of the chain, which vouches for all runs behind it.
        sha256: of the run's `run.json`; None where it is absent.
    """

    name: str
    findings: tuple[Finding, ...]
    is_head: bool = False
    sha256: str | None = None

    @property
    def is_sound(self) -> bool:
        """Return whether nothing but notes was found."""
        return all(finding.kind is Kind.NOTE for finding in self.findings)


def verify_all(
    uri: str,
    storage: StorageConfig,
    expected: str | None = None,
    anchors: Store | None = None,
    keys: Sequence[Ed25519PublicKey] = (),
) -> Iterator[Verified]:
    """Yield the findings in the run whose folder is at a URI (`STORE/runs/ID`), or in all runs of the store there.

    Args:
        expected: SHA-256 that the `run.json` of that run, or of one of the store's runs, must have. Runs that were
            committed later may be there.
        anchors: folder of the store's anchors, which its runs must fit.
        keys: public keys, of which one must have signed each run, or a later one that vouches for it.

    Raises:
        StoreError: the URI holds neither, or the store fails.
    """
    place = Store.at(uri, storage)
    anchored = None if anchors is None else read_anchors(anchors)
    if "/runs/" in place.uri:
        for run in committed_runs(uri, storage):
            proofs = _proofs(run.store, anchors, anchored, keys) if anchors is not None or keys else None
            link = Link.of(run)
            digest = link.sha256 if link else None
            proven = proofs.findings(link) if proofs and link else ()
            yield Verified(run.run_id, (*verify(run), *_unexpected(expected, {digest}), *proven), sha256=digest)
        return
    proofs = _proofs(place, anchors, anchored, keys)
    chain = _settled(proofs.chain)
    if not chain.links and expected is None and not (anchored and anchored.digests):
        raise StoreError(f"{place.uri}: neither a run's folder nor a store with committed runs")
    heads = {link.run_id for link in chain.heads}
    for run_id, link in chain.links.items():
        forks = chain.forks(link) if link.error is None else ()
        yield Verified(run_id, (*verify(link.run), *forks, *proofs.findings(link)), run_id in heads, link.sha256)
    if wrong := tuple(verify_verdicts(place)):
        yield Verified("verdicts", wrong)
    if wrong := tuple(verify_calibrations(place)):
        yield Verified("calibrations", wrong)
    of_store = (
        *_unexpected(expected, {link.sha256 for link in chain.links.values()}),
        *check_catalogue(place, chain.links),
        *proofs.of_store(anchored),
    )
    if of_store:
        yield Verified("store", of_store)


def _proofs(store: Store, anchors: Store | None, before: Anchors | None, keys: Sequence[Ed25519PublicKey]) -> Proofs:
    """Return what proves the runs of a store. A run that is committed meanwhile is in the second reading."""
    chain = read_chain(store)
    return Proofs(chain, None if anchors is None or before is None else before | read_anchors(anchors), keys)


def _unexpected(expected: str | None, there: Collection[str | None]) -> Iterator[Finding]:
    if expected is not None and expected not in there:
        yield tampered(f"no run.json here has the expected SHA-256 {expected}: that run was deleted, or written anew")


def _settled(chain: Chain) -> Chain:
    """Return the chain without runs that are being committed at this moment."""
    return Chain({run_id: link for run_id, link in chain.links.items() if not _is_in_the_making(link)})


def _is_in_the_making(link: Link) -> bool:
    run: Run = link.run
    return link.error is None and not run.is_committed() and run.is_alive()
