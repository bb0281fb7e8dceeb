"""List an S3 prefix, many requests at once where it pays.

Each answer's objects come as S3 writes them (`Key`, `Size`, `ETag`, `LastModified`), a thousand at most. What the store
refuses comes up as botocore or s3fs raise it, at once, and ends what is under way. An answer that is no listing, or not
a whole one (`NotAListing`, or XML that is cut off), is asked for again a few times; pages that are empty without end,
or whose keys go backwards, are `NotAListing` at once. So a listing is what the store listed, all of it, or it fails.

One request gives a page, and the next page cannot be asked for before this one is there; so a prefix of a million keys
is cut into prefixes that are listed side by side. Where a first page is not all and crosses few folders, the folders
are large: they are asked for (`Delimiter=/`) and become the new prefixes, or the beginnings of their names do where
they are many. Where a page crosses many folders, or holds loose keys, cutting would cost more requests than it saves,
and one page follows the other. No cut is a guess: every key below a folder begins with exactly one of the new prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from nsfwscan.config import StorageConfig
from nsfwscan.location import Location
from nsfwscan.storage.failures import NOT_A_LISTING, backoff_s
from nsfwscan.storage.objects import submit_s3
from nsfwscan.storage.rate_limit import Pace
from nsfwscan.storage.s3_dialect import NotAListing
from nsfwscan.warning import WarningKind, Warnings

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
_ATTEMPTS = 4
_MOST_EMPTY = 100
"""A page without keys may well say that there is more, as where a bucket is full of delete markers; not for ever."""


def list_prefix(
    source: Location,
    storage: StorageConfig,
    pace: Pace,
    *,
    ordered: bool,
    skip: Callable[[str], bool] = lambda folder: False,
    warnings: Warnings | None = None,
) -> Iterator[Objects]:
    """Yield all objects under a prefix, as S3 understands prefixes; or the one object, where the key is exactly that.

    An empty object of that name beside keys below `name/` is a mark that some tool left: the prefix is meant then. Both
    cases are counted as warnings.

    Closing the iterator drops the requests that are under way. An answer's successor is asked for when the answer has
    been used up, so memory stays flat however fast the store is.

    Args:
        ordered: one page after the other, in the order of the keys; else side by side, in no order.
        skip: whether nothing below a folder is wanted; such ones are not asked for where folders are listed apart.
        warnings: where it is counted that a source is an object and a prefix.
    """
    # A directory bucket takes no prefix that ends within a name, and has no order.
    directory = source.authority.endswith("--x-s3")
    notice = partial((Warnings() if warnings is None else warnings).add, example=source.uri)
    cuts = not ordered and not directory
    listing = _Listing(source.path, cuts=cuts, in_order=not directory, skip=skip, notice=notice)
    running: dict[Future[Page], _Question] = {}
    try:
        while listing.waiting or running:
            while listing.waiting and len(running) < _IN_FLIGHT:
                question = listing.waiting.pop()
                pace.wait(backoff_s(question.attempt))
                request = submit_s3(source, storage, "list_objects_v2", **question.request)
                running[request] = question
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for answer in done:
                question = running.pop(answer)
                try:
                    page = answer.result()
                except NOT_A_LISTING:
                    if question.attempt == _ATTEMPTS:
                        raise
                    listing.waiting.append(replace(question, attempt=question.attempt + 1))
                else:
                    yield question.then(page)
    finally:
        for answer in running:
            answer.cancel()


def is_folder_marker(key: str, size: int | None) -> bool:
    """Return whether an object only marks a folder: empty, and named as consoles and Hadoop do."""
    return size == 0 and key.endswith(("/", "_$folder$"))


@dataclass(frozen=True, slots=True)
class _Question:
    """A request still to be answered, and what to make of its answer."""

    request: dict[str, str]
    then: Then
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class _Reached:
    """Place that the pages of one prefix have reached."""

    last: str | None = None
    empty: int = 0
    """Pages without an object, in a row."""

    def past(self, page: Page, *, in_order: bool) -> _Reached:
        """Return how far one more page leads. Raises NotAListing where pages lead nowhere, or backwards."""
        keys = [item["Key"] for item in page.get("Contents", [])]
        if not keys:
            if page.get("IsTruncated") and self.empty + 1 == _MOST_EMPTY:
                raise NotAListing(f"{_MOST_EMPTY} pages in a row have no object, and each says that there is more")
            return _Reached(self.last, self.empty + 1)
        run = keys if self.last is None else [self.last, *keys]
        back = next((pair for pair in pairwise(run) if not _in_order(*pair)), None) if in_order else None
        if back is not None:
            raise NotAListing(f"the keys are not in order: {back[1]!r} comes after {back[0]!r}")
        return _Reached(keys[-1])


def _in_order(one: str, other: str) -> bool:
    """Return whether two keys are in the order of their bytes, as S3 has it, or folder by folder, as stores have it
    that keep files."""
    return one < other or one.split("/") < other.split("/")


@dataclass(frozen=True, slots=True)
class _Branch:
    """Keys that begin with `prefix` and, where it was cut from a folder, lie below one of that folder's folders."""

    prefix: str
    folder: str | None = None
    depth: int = 0
    cuts: bool = True
    """True where it may be cut further."""

    def own(self, page: Page) -> Objects:
        """Return the objects of a page that are this branch's; those in `folder` itself were given when it was cut."""
        objects: Objects = page.get("Contents", [])
        if self.folder is None or self.prefix.endswith("/"):
            return objects
        return [item for item in objects if "/" in item["Key"][len(self.folder) :]]

    def crossed(self, page: Page) -> int:
        """Return how many folders and loose keys right below the prefix the keys of a page belong to."""
        below = (item["Key"][len(self.prefix) :] for item in page.get("Contents", []))
        return len({name.partition("/")[:2] for name in below})


@dataclass(slots=True)
class _Folders:
    """Folders and loose objects right below a branch's prefix that are wanted, as far as they are known."""

    names: list[str] = field(default_factory=list)
    loose: Objects = field(default_factory=list)
    pages: int = 0


class _Listing:
    """Requests still to be sent, the last one first, each with what to make of its answer."""

    def __init__(
        self,
        prefix: str,
        *,
        cuts: bool,
        in_order: bool,
        skip: Callable[[str], bool],
        notice: Callable[[WarningKind], None],
    ) -> None:
        self.waiting: list[_Question] = []
        self._in_order = in_order
        self._skip, self._notice = skip, notice
        self._mark: str | None = None
        self._ask(partial(self._begun, _Branch(prefix, cuts=cuts)), Prefix=prefix)

    def _ask(self, then: Then, **request: str) -> None:
        self.waiting.append(_Question(request, then))

    def _begun(self, branch: _Branch, page: Page) -> Objects:
        objects: Objects = page.get("Contents", [])
        if branch.depth == 0 and objects and objects[0]["Key"] == branch.prefix and not branch.prefix.endswith("/"):
            below = f"{branch.prefix}/"
            if page.get("IsTruncated") and objects[-1]["Key"] < below:
                self._ask(partial(self._beside, branch, page), Prefix=below)
                return []
            return self._beside(branch, page, page)
        return self._cut_or_went_on(branch, page)

    def _beside(self, branch: _Branch, begun: Page, below: Page) -> Objects:
        """Return the one object whose key is the source, or list the prefix, by what lies below `key/`."""
        [whole] = begun["Contents"][:1]
        is_prefix = any(
            item["Key"].startswith(f"{branch.prefix}/") and not is_folder_marker(item["Key"], item.get("Size"))
            for item in below.get("Contents", [])
        )
        if not is_prefix or whole.get("Size") != 0:
            if is_prefix:
                self._notice(WarningKind.PREFIX_BESIDE)
            return [whole]
        self._notice(WarningKind.OBJECT_AND_PREFIX)
        self._mark = branch.prefix
        rest = {**begun, "Contents": begun["Contents"][1:]}
        return self._cut_or_went_on(branch, rest)

    def _cut_or_went_on(self, branch: _Branch, page: Page) -> Objects:
        objects: Objects = page.get("Contents", [])
        if branch.cuts and page.get("IsTruncated") and len(objects) >= _KEYS_A_FOLDER * branch.crossed(page) > 0:
            found = partial(self._found, branch, page, _Folders())
            self._ask(found, Prefix=branch.prefix, Delimiter="/")
            return []
        return self._went_on(branch, _Reached(), page)

    def _went_on(self, branch: _Branch, before: _Reached, page: Page) -> Objects:
        reached = before.past(page, in_order=self._in_order)
        if page.get("IsTruncated"):
            then = partial(self._went_on, branch, reached)
            self._ask(then, Prefix=branch.prefix, ContinuationToken=page["NextContinuationToken"])
        return branch.own(page)

    def _found(self, branch: _Branch, begun: Page, folders: _Folders, page: Page) -> Objects:
        """Cut the branch at its folders, once all are known; list it as it is where cutting would not pay."""
        folders.names += [item["Prefix"] for item in page.get("CommonPrefixes", []) if not self._skip(item["Prefix"])]
        folders.loose += [item for item in page.get("Contents", []) if item["Key"] != self._mark]
        folders.pages += 1
        if page.get("IsTruncated"):
            if folders.pages == _MOST_FOLDER_PAGES:
                return self._went_on(branch, _Reached(), begun)
            then = partial(self._found, branch, begun, folders)
            self._ask(then, Prefix=branch.prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])
            return []
        if not folders.names:
            return folders.loose
        cuts = _cut(folders.names, len(branch.prefix), min(_MOST_CUTS, len(folders.names) // branch.crossed(begun)))
        if len(cuts) < 2 and len(folders.names) != 1:
            return self._went_on(branch, _Reached(), begun)
        depth = branch.depth + 1
        for prefix in reversed(cuts or folders.names):
            cut = _Branch(prefix, branch.prefix, depth, cuts=prefix.endswith("/") and depth < _DEPTH)
            self._ask(partial(self._begun, cut), Prefix=prefix)
        return folders.loose


def _cut(folders: list[str], stem: int, most: int) -> list[str]:
    """Return prefixes, `most` at most, with which all folders begin, each with exactly one; as even as names of ids
    make them. The folders are distinct, and end at their first `/` after `stem` characters, which they share.

    The first n characters, the same n for all, never overlap: a folder that is shorter ends with its only `/`.
    """
    cuts: list[str] = []
    for length in range(stem + 1, max(map(len, folders), default=0) + 1):
        longer = {folder[:length] for folder in folders}
        if len(longer) > most:
            break
        cuts = sorted(longer)
    return cuts
