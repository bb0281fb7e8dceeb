"""Write an evidence pack: a static page on which a person decides the items of a run without opening the originals.

The page is one file, with covers, texts and script in it. It asks no server for anything, but for the originals that a
person asks for twice. Decisions stay in the person's browser until they are downloaded as a verdict file. An illegal
match, and what looks like one, is a hash and a place: nothing of it is read, drawn or linked.

A report that cannot be read is a `StoreError`, a place that cannot be written a `ConfigError`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nsfwscan.errors import ConfigError, Status
from nsfwscan.reports.html import page_environment
from nsfwscan.review.covers import Artist, Content, DrawnViews, Save, View
from nsfwscan.review.evidence import Parts, Scores, minimal, parts_of_views, scores_of_views, worst_of
from nsfwscan.review.hands import NamedItem
from nsfwscan.review.originals import NoOriginals, Originals, origin_of
from nsfwscan.review.ranking import Item
from nsfwscan.review.words import facts_of, line_of, summary_of
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import Shield
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import to_json
from nsfwscan.text import plural

TEMPLATES = Path(__file__).parent / "templates"
PAGE, PICTURES = "index.html", "originals"
MOST_ITEMS = 10_000
"""Default number of items in a pack; a page of so many is about 15 MB."""
_ILLEGAL = "known illegal content: never shown"
_HIDDEN = "hidden by the policy"


@dataclass(frozen=True)
class Pack:
    """A written pack.

    Attributes:
        place: of the page.
        items, contents: what it has.
        left: items that it leaves out, the less urgent ones.
        covers: contents with a cover.
        problems: why others have none, with counts.
    """

    place: str
    items: int
    contents: int
    left: int
    covers: int
    problems: dict[str, int]


@dataclass(frozen=True)
class PackRequest:
    """A request for a pack: what is on its page, and for whom.

    Args:
        title: over the page.
        kind: of its verdicts, as in a verdict file.
        most: number of items.
        originals: where they are; None: pictures of them lie in a folder beside the page, which can be left out.
        reviewer: name of the person that it is for; empty: the page asks.
        named: by URI, what a file says of the items, where one names them.
        maps: maps of where a picture may have been changed go along with its original.
    """

    title: str
    kind: str = "review"
    most: int = MOST_ITEMS
    originals: Originals | None = NoOriginals()  # noqa: RUF009  # it has no state
    reviewer: str = ""
    named: Mapping[str, NamedItem] = field(default_factory=dict)
    maps: bool = False


def write_pack(run: Run, items: Iterable[Item], out: Output, asked: PackRequest, draw: Artist | None) -> Pack:
    """Write the page of some items into a folder, and beside it the pictures, if they are asked for.

    Args:
        items: in the order of the page.
        draw: makes the covers; None: there are none.
    """
    waiting = iter(items)
    chosen = list(islice(waiting, asked.most))
    left = sum(1 for _ in waiting)
    contents = [content for item in chosen for content in _contents(item)]
    to_draw = dict.fromkeys(content for item in chosen if not item.row["illegal"] for content in _contents(item))
    uris = [item.row["uri"] for item in chosen]
    scores = scores_of_views(run, uris)
    mapped = {_contents(item)[0] for item in chosen if asked.maps and item.row["shield"] != Shield.HIDDEN}
    drawn = dict(zip(to_draw, draw.draw(list(to_draw), worst_of(scores), mapped), strict=True)) if draw else {}
    made = _Maker(drawn, scores, parts_of_views(run, {content.uri for content in contents}), asked)
    try:
        out.make_folder()
        shown = [made.item(item) for item in chosen]
        with out.child(PAGE).appearing() as path:
            path.write_text(_page(run, asked, shown), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the pack to {out}: {error.strerror or error}") from error
    why = Counter(str(member["no_cover"]).partition(":")[0] for item in shown for member in item["members"])
    covered = why.pop(str(None), 0)
    return Pack(str(out.child(PAGE)), len(chosen), len(contents), left, covered, dict(why.most_common()))


def picture_saver(out: Output) -> Save:
    """Return a function that keeps pictures of originals in a folder beside the page, each under a name of its own.
    Raises ConfigError, StoreError."""
    folder = out.child(PICTURES)
    folder.make_folder()

    def save(content: Content, view: int | str, jpeg: bytes) -> str:
        name = f"{content.sha256}-{view}.jpg"
        try:
            with folder.child(name).appearing() as path:
                path.write_bytes(jpeg)
        except OSError as error:
            raise ConfigError(f"cannot write {folder.child(name)}: {error.strerror or error}") from error
        return f"{PICTURES}/{name}"

    return save


def _contents(item: Item) -> list[Content]:
    """Return the contents that are decided together, the item's own first."""
    own = Content(item.row["uri"], item.row["sha256"])
    return [own, *(Content(member["uri"], member["sha256"]) for member in item.members)]


@dataclass(frozen=True)
class _Maker:
    """Makes the items of a page."""

    drawn: Mapping[Content, DrawnViews]
    scores: Scores
    parts: Parts
    asked: PackRequest

    def item(self, item: Item) -> dict[str, Any]:
        """Return an item as the page's script knows it."""
        row = item.row
        views, named = self._views(item), self.asked.named.get(row["uri"])
        return {
            "line": line_of(item),
            "summary": summary_of(item),
            "kind": self.asked.kind if named is None else str(named.kind),
            "shield": str(row["shield"] or Shield.NONE),
            "media": row["media"],
            "model": _digest(row["model"]),
            "policy": _digest(row["policy"]),
            "probability": None if named is None else named.probability,
            "no_cover": self._no_cover(item, _contents(item)[0]),
            "views": views,
            "members": [self._member(item, content) for content in _contents(item)],
            "contents": row["contents"],
            "facts": facts_of(item),
        }

    def _views(self, item: Item) -> list[dict[str, Any]]:
        drawn = self.drawn.get(_contents(item)[0])
        if drawn is None:
            return []
        hidden, uri = item.row["shield"] == Shield.HIDDEN, item.row["uri"]
        scores, parts = self.scores.get(uri, {}), self.parts.get(uri, {})
        return [
            {
                "index": view.index,
                "at_s": view.at_s,
                "cover": None if hidden else view.cover,
                "score": scores.get(view.index),
                "picture": view.picture,
                "parts": parts.get(view.index, []),
                "maps": dict(view.maps),
            }
            for view in minimal(drawn.views, scores)
        ]

    def _member(self, item: Item, content: Content) -> dict[str, Any]:
        row, drawn = item.row, self.drawn.get(content, DrawnViews())
        shown: Sequence[View] = () if row["shield"] == Shield.HIDDEN else drawn.views
        offered = not row["illegal"] and self.asked.originals is not None
        named = {"uri": content.uri, "sha256": content.sha256, "object_id": _object_id(content.uri)}
        linked = self.asked.originals.link(named) if offered and self.asked.originals else None
        kept = drawn.views[0].picture if drawn.views else None
        return {
            **named,
            "cover": shown[0].cover if shown else None,
            "no_cover": self._no_cover(item, content),
            "original": linked or kept,
            "parts": [] if row["illegal"] else self.parts.get(content.uri, {}).get(0, []),
        }

    def _no_cover(self, item: Item, content: Content) -> str | None:
        """Say why a content has no cover; None where it has one."""
        if item.row["illegal"]:
            return _ILLEGAL
        if item.row["shield"] == Shield.HIDDEN:
            return _HIDDEN
        drawn = self.drawn.get(content)
        if drawn is None:
            return "covers were not asked for"
        return drawn.problem


def _object_id(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:32]


def _digest(identity: str | None) -> str:
    """Return the digest of `name@digest`."""
    return (identity or "").rpartition("@")[2]


def _page(run: Run, asked: PackRequest, items: list[dict[str, Any]]) -> str:
    """Return the page. Its policy allows this very script and style, and nothing from elsewhere but images of the hosts
    that its links name."""
    record: RunRecord = run.record()
    environment = page_environment(TEMPLATES)
    style, script = (_source(environment, *names) for names in (("style.css", "review.css"), ("review.js",)))
    words = record.policy.review
    told = {
        "pack": _pack_id(run.digest(), asked, items),
        "run_id": run.run_id,
        "reviewer": asked.reviewer,
        "categories": list(words.categories),
        "reasons": list(words.reasons),
        "items": items,
    }
    return environment.get_template("review.html").render(
        title=asked.title,
        run_id=run.run_id,
        made_at=datetime.now(UTC).isoformat(),
        items=len(items),
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script, _origins(items)),
        pack=Markup(json.dumps(told).replace("<", "\\u003c")),
    )


def _source(environment: Any, *names: str) -> str:
    """Return the text of files beside the templates."""
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in names)


def _pack_id(run_digest: str, asked: PackRequest, items: Sequence[Mapping[str, Any]]) -> str:
    """Return an id by which a browser finds the decisions of the very same items again."""
    contents = [[member["uri"], member["sha256"]] for item in items for member in item["members"]]
    return hashlib.sha256(to_json([run_digest, asked.kind, asked.reviewer, contents])).hexdigest()[:16]


def _origins(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the hosts that links name; `'self'` where pictures lie beside the page."""
    links = [member["original"] for item in items for member in item["members"] if member["original"]]
    links += [view["picture"] for item in items for view in item["views"] if view["picture"]]
    links += [place for item in items for view in item["views"] for place in view["maps"].values()]
    return sorted({origin_of(link) or "'self'" for link in links})


def _policy(style: str, script: str, origins: Sequence[str]) -> str:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {digest(script)}",
            f"style-src {digest(style)}",
            f"img-src {' '.join(['data:', *origins])}",
            f"media-src {' '.join(origins) or chr(39) + 'none' + chr(39)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def describe_pack(pack: Pack) -> str:
    """Render a pack for the terminal."""
    lines = [f"pack    {pack.place}", f"items   {pack.items:,}, of {plural(pack.contents, 'content')}"]
    if pack.left:
        lines.append(f"left    {plural(pack.left, 'less urgent item')}: --limit")
    lines.append(f"covers  {pack.covers:,}")
    for problem, count in pack.problems.items():
        said = problem if problem not in set(Status) else f"could not be read ({problem})"
        lines.append(f"        {count:,} without: {said}")
    return "\n".join(lines)
