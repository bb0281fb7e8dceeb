"""List a web server's folder by its index pages, as Apache, nginx and others write them.

What a page links elsewhere (above the folder, another host, its columns in another order) is passed over. A page that
redirects, is cut off, asks to log in or is no index at all is `NotAListing`: its files are unknown, and not gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

from fsspec.asyn import sync

from nsfwscan.storage.failures import retry
from nsfwscan.storage.filesystems import get_url
from nsfwscan.storage.s3_dialect import NotAListing

_MOST_BYTES = 64 * 2**20
"""Of one page: half a million files in one folder."""
_TITLES = ("index of", "directory listing", "directory:")


def list_pages(url: str, fs: Any, timeout_s: float) -> Iterator[str]:
    """Yield the URLs of the files below a folder, depth first, in their order, each once. Raises NotAListing where a
    page is no index page, or not a whole one; OSError where a page cannot be read.

    Args:
        fs: fsspec's HTTP filesystem.
        timeout_s: for each page.
    """
    seen, folders = {url}, [url]
    while folders:
        folder = folders.pop()
        page = retry(lambda folder=folder: sync(fs.loop, _get, fs, folder, timeout=timeout_s))  # type: ignore[misc]
        below = sorted(_links(folder, page) - seen)
        seen.update(link for link in below if link.endswith("/"))
        folders += [link for link in reversed(below) if link.endswith("/")]
        yield from (link for link in below if not link.endswith("/"))


async def _get(fs: Any, url: str) -> bytes:
    async with get_url(fs, url, allow_redirects=False) as answer:
        if 300 <= answer.status < 400:
            raise NotAListing(f"{url} redirects to {answer.headers.get('Location', 'another place')}")
        if answer.content_type != "text/html":
            raise NotAListing(f"{url} is no index page but {answer.content_type}")
        page = bytearray()
        while piece := await answer.content.readany():
            page += piece
            if len(page) > _MOST_BYTES:
                raise NotAListing(f"{url} has more than {_MOST_BYTES:,} bytes, which no index page has")
    return bytes(page)


class _Index(HTMLParser):
    """Links and headings of an index page, and whether it asks for a password."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.heading = ""
        self.asks = False
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep links, and fields for passwords."""
        given = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.asks = self.asks or (tag == "input" and given.get("type", "").lower() == "password")
        self._in_heading = tag in ("title", "h1") or (self._in_heading and tag not in ("body", "pre", "table"))

    def handle_endtag(self, tag: str) -> None:
        """End a heading."""
        self._in_heading = self._in_heading and tag not in ("title", "h1")

    def handle_data(self, data: str) -> None:
        """Keep headings."""
        if self._in_heading:
            self.heading += data.lower()


def _links(folder: str, page: bytes) -> set[str]:
    """Return the URLs right below a folder that its page links to."""
    if not page.rstrip().lower().endswith(b"</html>"):
        raise NotAListing(f"the index page {folder} is cut off: it has no </html>")
    index = _Index()
    index.feed(page.decode("utf-8", errors="replace"))
    if index.asks:
        raise NotAListing(f"{folder} is no index page: it asks for a password")
    places = {_place(urljoin(folder, link)) for link in index.links}
    below = {place for place in places if place.startswith(folder) and "/" not in place[len(folder) :].rstrip("/")}
    parent = folder.rstrip("/").rsplit("/", 1)[0] + "/"
    if not below - {folder} and parent not in places and not any(title in index.heading for title in _TITLES):
        raise NotAListing(f"{folder} is no index page: it links to nothing below it")
    return below - {folder}


def _place(url: str) -> str:
    """Return a URL without its query and its fragment: an index links to itself in another order."""
    return urlunsplit(urlsplit(urldefrag(url).url)._replace(query=""))
