"""Listing an S3 prefix, many requests at once where it pays.

In: a bucket and a prefix. Out: the objects of each answer, as S3 writes them (`Key`, `Size`, `ETag`, `LastModified`),
a thousand at most. What the store refuses comes up as botocore or s3fs raise it, at once, and ends what is under way.

One request gives a page, and the next page cannot be asked for before this one is there; so a prefix of a million keys
is cut into prefixes that are listed side by side. Where a first page is not all and crosses few folders, the folders
are large: they are asked for (`Delimiter=/`) and become the new prefixes, or the beginnings of their names do where
they are many. Where a page crosses many folders, or holds loose keys, cutting would cost more requests than it saves,
and one page follows the other. No cut is a guess: every key below a folder begins with exactly one of the new prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nsfwscan.config import StorageConfig
from nsfwscan.pacing import Pace
from nsfwscan.storage import split_s3, submit_s3

Page = dict[str, Any]
Objects = list[dict[str, Any]]
Then = Callable[[Page], Objects]

_IN_FLIGHT = 16
_MOST_CUTS = 256
_MOST_FOLDER_PAGES = 32
"""Folders are held while they are counted: 32,000 of them at most, some MB."""
_KEYS_A_FOLDER = 4
"""Fewer in the first page: naming all folders would take a quarter of the requests that listing all keys takes."""
_DEPTH = 16


def list_prefix(uri: str, storage: StorageConfig, pace: Pace, *, ordered: bool) -> Iterator[Objects]:
    """All objects under a prefix, as S3 understands prefixes; or the one object, where the key is exactly that.

    Closing the iterator drops the requests that are under way. An answer's successor is asked for when the answer has
    been used up, so memory stays flat however fast the store is.

    Args:
        ordered: one page after the other, in the order of the keys; else side by side, in no order.
    """
    bucket, prefix = split_s3(uri)
    directory = bucket.endswith("--x-s3")  # directory buckets take no prefix that ends within a name
    listing = _Listing(prefix, cuts=not ordered and not directory)
    running: dict[Future[Page], Then] = {}
    try:
        while listing.waiting or running:
            while listing.waiting and len(running) < _IN_FLIGHT:
                request, then = listing.waiting.pop()
                pace.wait()
                running[submit_s3(storage, uri, "list_objects_v2", Bucket=bucket, **request)] = then
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for answer in done:
                yield running.pop(answer)(answer.result())
    finally:
        for answer in running:
            answer.cancel()


@dataclass(frozen=True, slots=True)
class _Branch:
    """The keys that begin with `prefix` and, where it was cut from a folder, lie below one of that folder's folders."""

    prefix: str
    folder: str | None = None
    depth: int = 0
    cuts: bool = True
    """Whether it may be cut further."""

    def own(self, page: Page) -> Objects:
        """The objects of a page that are this branch's; what lies in `folder` itself was given when it was cut."""
        objects: Objects = page.get("Contents", [])
        if self.folder is None or self.prefix.endswith("/"):
            return objects
        return [item for item in objects if "/" in item["Key"][len(self.folder) :]]

    def crossed(self, page: Page) -> int:
        """How many folders and loose keys right below the prefix the keys of a page belong to."""
        below = (item["Key"][len(self.prefix) :] for item in page.get("Contents", []))
        return len({name.partition("/")[:2] for name in below})


@dataclass(slots=True)
class _Folders:
    """What lies right below a branch's prefix, as far as it is known."""

    names: list[str] = field(default_factory=list)
    loose: Objects = field(default_factory=list)
    pages: int = 0


class _Listing:
    """The requests still to be sent, the last one first, each with what to make of its answer."""

    def __init__(self, prefix: str, *, cuts: bool) -> None:
        self.waiting: list[tuple[dict[str, str], Then]] = []
        self._ask(partial(self._begun, _Branch(prefix, cuts=cuts)), Prefix=prefix)

    def _ask(self, then: Then, **request: str) -> None:
        self.waiting.append((request, then))

    def _begun(self, branch: _Branch, page: Page) -> Objects:
        objects: Objects = page.get("Contents", [])
        if branch.depth == 0 and objects and objects[0]["Key"] == branch.prefix and not branch.prefix.endswith("/"):
            return objects[:1]
        if branch.cuts and page.get("IsTruncated") and len(objects) >= _KEYS_A_FOLDER * branch.crossed(page) > 0:
            found = partial(self._found, branch, page, _Folders())
            self._ask(found, Prefix=branch.prefix, Delimiter="/")
            return []
        return self._went_on(branch, page)

    def _went_on(self, branch: _Branch, page: Page) -> Objects:
        if page.get("IsTruncated"):
            then = partial(self._went_on, branch)
            self._ask(then, Prefix=branch.prefix, ContinuationToken=page["NextContinuationToken"])
        return branch.own(page)

    def _found(self, branch: _Branch, begun: Page, folders: _Folders, page: Page) -> Objects:
        """Cuts the branch at its folders, once all are known; lists it as it is where that would not pay."""
        folders.names += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        folders.loose += page.get("Contents", [])
        folders.pages += 1
        if page.get("IsTruncated"):
            if folders.pages == _MOST_FOLDER_PAGES:
                return self._went_on(branch, begun)
            then = partial(self._found, branch, begun, folders)
            self._ask(then, Prefix=branch.prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])
            return []
        cuts = _cut(folders.names, len(branch.prefix), min(_MOST_CUTS, len(folders.names) // branch.crossed(begun)))
        if len(cuts) < 2 and len(folders.names) != 1:
            return self._went_on(branch, begun)
        depth = branch.depth + 1
        for prefix in reversed(cuts or folders.names):
            cut = _Branch(prefix, branch.prefix, depth, cuts=prefix.endswith("/") and depth < _DEPTH)
            self._ask(partial(self._begun, cut), Prefix=prefix)
        return folders.loose


def _cut(folders: list[str], stem: int, most: int) -> list[str]:
    """Prefixes, `most` at most, with which all folders begin, each with exactly one; as even as names of ids make them.

    Args:
        folders: distinct names that end at their first `/` after `stem` characters, which they share.

    The first n characters, the same n for all, never overlap: a folder that is shorter ends with its only `/`.
    """
    cuts: list[str] = []
    for length in range(stem + 1, max(map(len, folders), default=0) + 1):
        longer = {folder[:length] for folder in folders}
        if len(longer) > most:
            break
        cuts = sorted(longer)
    return cuts
