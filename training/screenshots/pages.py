"""Write pages for a browser to show: chats in many themes, and other things that people take pictures of.

All texts are made up of harmless words. A theme is a family (what goes where) with its own colours, sizes and corners.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

_WORDS = (  # noqa: SIM905
    "the train was late again but we found a seat by the window and had tea did you see the garden this morning yes it "
    "rained all night tomorrow maybe let us meet at the station near the old bridge bring the green book please thanks "
    "see you there what time works around noon or a little later sure no hurry my sister baked bread today it smells "
    "wonderful the cat sleeps on the chair again ha ha that is so like her can you send the list of plants for spring"
).split()
_FONTS = (
    "Arial, sans-serif",
    "Georgia, serif",
    "'DejaVu Sans', sans-serif",
    "'Liberation Sans', sans-serif",
    "monospace",
)


@dataclass(frozen=True)
class Page:
    """A page and how it is shown."""

    family: str
    html: str
    width: int
    height: int


def words(draw: random.Random, least: int, most: int) -> str:
    """Return some made-up words."""
    return escape(" ".join(draw.choice(_WORDS) for _ in range(draw.randint(least, most))).capitalize())


def _colour(draw: random.Random, low: int, high: int) -> str:
    return f"rgb({draw.randint(low, high)},{draw.randint(low, high)},{draw.randint(low, high)})"


def _page(style: str, body: str, draw: random.Random, back: str, ink: str) -> str:
    font, size = draw.choice(_FONTS), draw.randint(13, 18)
    common = f"*{{box-sizing:border-box}}body{{margin:0;font:{size}px {font};background:{back};color:{ink}}}"
    return f"<!doctype html><meta charset=utf-8><style>{common}{style}</style><body>{body}"


def chat(family: str, draw: random.Random) -> Page:
    """Return a chat. Families differ in avatars, names, wallpapers, outlines, and in whether times stand there."""
    dark = draw.random() < 0.4
    back, ink = (_colour(draw, 5, 40), "#eee") if dark else (_colour(draw, 225, 255), "#111")
    lines, side = [], "yours"
    for _ in range(draw.randint(9, 22)):
        side = side if draw.random() < 0.35 else ("mine" if side == "yours" else "yours")
        lines.append(_bubble(family, side, draw))
        if draw.random() < 0.06:
            lines.append(f"<div class=time style='text-align:center;margin:8px'>{words(draw, 1, 2)}</div>")
    bar = f"<div class=bar><div class=face></div><b>{words(draw, 1, 2)}</b></div>" if draw.random() < 0.8 else ""
    fixed = "position:fixed;bottom:0;left:0;right:0"
    entry = f"<div class=bar style='{fixed}'>{words(draw, 1, 2)}</div>" if draw.random() < 0.7 else ""
    body, style = bar + "".join(lines) + entry, _chat_style(family, dark, draw)
    return Page(f"chat-{family}", _page(style, body, draw, back, ink), *_size(draw, phones=0.8))


def _bubble(family: str, side: str, draw: random.Random) -> str:
    text, time = words(draw, 1, 22), f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}"
    inner = text if family == "plain" else f"<div>{text}</div><div class=time>{time}</div>"
    bubble = f"<div class='box {side}'>{inner}</div>"
    if family not in ("avatars", "rooms") or side == "mine":
        return bubble
    name = f"<div class=time>{words(draw, 1, 1)}</div>" if family == "rooms" else ""
    return f"<div class=with><div class=face></div><div>{name}{bubble}</div></div>"


def _chat_style(family: str, dark: bool, draw: random.Random) -> str:
    mine = f"hsl({draw.randint(0, 359)},{draw.randint(45, 95)}%,{draw.randint(30, 75)}%)"
    yours = _colour(draw, 45, 75) if dark else _colour(draw, 205, 250)
    bar = _colour(draw, 20, 60) if dark else _colour(draw, 215, 250)
    style = (
        f".box{{max-width:{draw.randint(55, 80)}%;margin:{draw.randint(2, 10)}px 10px;padding:{draw.randint(5, 12)}px "
        f"12px;border-radius:{draw.choice((2, 8, 14, 20))}px;width:fit-content}}.yours{{background:{yours}}}"
        f".mine{{background:{mine};margin-left:auto;color:{draw.choice(('#fff', '#111'))}}}"
        ".time{font-size:11px;opacity:.6}.with{display:flex;padding-left:8px;align-items:end}"
        f".bar{{padding:12px;display:flex;gap:10px;align-items:center;background:{bar}}}"
        f".face{{width:34px;height:34px;border-radius:{draw.choice((50, 30))}%;background:{_colour(draw, 60, 220)};"
        "flex:none}"
    )
    if family == "wallpaper":
        dot = _colour(draw, 30, 60) if dark else _colour(draw, 195, 225)
        style += f"body{{background-image:radial-gradient({dot} 2px,transparent 3px);background-size:22px 22px}}"
    if family == "gradient":
        style += f"body{{background:linear-gradient({_colour(draw, 60, 220)},{_colour(draw, 60, 220)}) fixed}}"
    return style + (f".yours{{background:transparent;border:1px solid {mine}}}" if family == "outlined" else "")


def _size(draw: random.Random, phones: float) -> tuple[int, int]:
    """Return width and height of a window, in pixels: of a phone, or of a larger screen."""
    if draw.random() < phones:
        return draw.randint(360, 430), draw.randint(640, 930)
    return draw.randint(700, 1440), draw.randint(560, 900)


def _article(draw: random.Random) -> str:
    body = "".join(f"<p>{words(draw, 30, 90)}</p>" for _ in range(draw.randint(4, 9)))
    return f"<div style='max-width:640px;margin:20px auto;padding:10px'><h1>{words(draw, 3, 8)}</h1>{body}</div>"


def _settings(draw: random.Random) -> str:
    switch = "<div style='width:42px;height:22px;border-radius:11px;background:#4a9'></div>"
    style = "display:flex;justify-content:space-between;padding:14px;border-bottom:1px solid #8886"
    rows = (f"<div style='{style}'>{words(draw, 1, 4)}{switch}</div>" for _ in range(draw.randint(6, 16)))
    return f"<h2 style='padding:12px'>{words(draw, 1, 2)}</h2>{''.join(rows)}"


def _mail(draw: random.Random) -> str:
    return "".join(
        f"<div style='padding:10px 14px;border-bottom:1px solid #8884'><b>{words(draw, 1, 2)}</b>"
        f"<div>{words(draw, 3, 8)}</div><div style='opacity:.6'>{words(draw, 6, 14)}</div></div>"
        for _ in range(draw.randint(8, 16))
    )


def _table(draw: random.Random) -> str:
    cells = (f"<td style='border:1px solid #8888;padding:4px 8px'>{draw.randint(0, 9999)}" for _ in range(6))
    rows = f"<tr>{''.join(cells)}" * draw.randint(12, 34)
    return f"<table style='border-collapse:collapse;margin:10px'>{rows}</table>"


def _code(draw: random.Random) -> str:
    lines = (
        f"{' ' * 4 * draw.randint(0, 3)}<span style='color:hsl({draw.randint(0, 359)},70%,55%)'>{words(draw, 1, 2)}"
        f"</span> = {words(draw, 1, 7)}\n"
        for _ in range(draw.randint(20, 44))
    )
    return f"<pre style='padding:12px'>{''.join(lines)}</pre>"


def _form(draw: random.Random) -> str:
    field = "<div style='height:36px;border:1px solid #8889;border-radius:6px;margin:6px 0 16px'></div>"
    fields = "".join(f"<label>{words(draw, 1, 2)}</label>{field}" for _ in range(draw.randint(2, 6)))
    return f"<div style='max-width:420px;margin:60px auto;padding:20px'><h2>{words(draw, 1, 3)}</h2>{fields}</div>"


def _board(draw: random.Random) -> str:
    cards = "".join(
        f"<div style='background:{_colour(draw, 60, 230)};height:{draw.randint(80, 180)}px;border-radius:8px;"
        f"padding:10px'>{words(draw, 1, 4)}</div>"
        for _ in range(12)
    )
    style = f"display:grid;grid-template-columns:repeat({draw.randint(2, 4)},1fr);gap:12px;padding:14px"
    return f"<div style='{style}'>{cards}</div>"


def _dialog(draw: random.Random) -> str:
    style = "margin:30vh auto;width:300px;padding:20px;background:#fff;color:#111;border-radius:12px"
    inner = f"<b>{words(draw, 2, 4)}</b><p>{words(draw, 6, 14)}</p><button>{words(draw, 1, 1)}</button>"
    over = f"<div style='position:fixed;inset:0;background:#0007'><div style='{style}'>{inner}</div></div>"
    return _article(draw) + over


OTHERS: dict[str, Callable[[random.Random], str]] = {
    "article": _article, "settings": _settings, "mail": _mail, "table": _table, "code": _code, "form": _form,
    "board": _board, "dialog": _dialog,
}  # fmt: skip
CHATS = ("plain", "times", "avatars", "rooms", "wallpaper", "gradient", "outlined")
UNSEEN = ("chat-wallpaper", "chat-rooms", "page-mail", "page-board", "page-code")
"""Families that the weights are not fitted on."""


def other(family: str, draw: random.Random) -> Page:
    """Return a page that is no chat."""
    dark = draw.random() < 0.35
    back, ink = (_colour(draw, 5, 40), "#eee") if dark else (_colour(draw, 235, 255), "#111")
    return Page(f"page-{family}", _page("", OTHERS[family](draw), draw, back, ink), *_size(draw, phones=0.5))
