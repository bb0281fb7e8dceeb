"""Read codes in pictures (QR, Aztec, Data Matrix, bar codes, …) with zxing-cpp, and say where they lead. The signals:

<detector>.codes      codes
<detector>.hosts      different hosts that they lead to
<detector>.blocked    hosts on the list `text.block`; absent without one
<detector>.allowed    hosts on the list `text.allow`, and on no list of blocked ones; absent without one
<detector>.other      codes that lead to no host: numbers of goods, telephones, networks, texts
<detector>.odd        links that hide where they lead: with something before `@`, a port of their own, letters beyond
                      ASCII in the host, or an address in place of a name
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from nsfwscan.errors import ModelError
from nsfwscan.texts.hosts import Link, link_of
from nsfwscan.texts.lines import LINE, Line, Pixels, TextFindings, place_of
from nsfwscan.texts.rules import TextRules

NAME = "embedded:link"
LABELS = ("codes", "hosts", "blocked", "allowed", "other", "odd")


class Codes:
    """Reads codes.

    Args:
        rules: have the lists of hosts.
    """

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules

    def open(self) -> None:
        """Do nothing but look whether zxing-cpp is here. Raises ModelError where it is not."""
        digest()

    def read(self, pixels: Pixels) -> list[Line]:
        """Return the codes of a picture."""
        import zxingcpp

        height, width, _ = pixels.shape
        found = []
        for code in zxingcpp.read_barcodes(np.ascontiguousarray(pixels[..., ::-1])):
            at = code.position
            points = (at.top_left, at.top_right, at.bottom_right, at.bottom_left)
            corners = np.array([(point.x, point.y) for point in points], np.float64)
            kind = str(code.format).replace(" ", "")
            found.append(Line(kind, code.text, 1.0, place_of(corners, (width, height))))
        return found

    def describe(self, lines: Sequence[Line]) -> TextFindings:
        """Return the signals of all codes of an object, and the host that counts most."""
        links = [link for line in lines if line.kind != LINE and (link := link_of(line.text)) is not None]
        block, allow = self._rules.block, self._rules.allow
        ranks = {link.host: self._rank(link.host) for link in links}
        signals = {
            "codes": len(lines),
            "hosts": len(ranks),
            "other": len(lines) - len(links),
            "odd": sum(map(_is_odd, links)),
            **({} if block is None else {"blocked": list(ranks.values()).count(0)}),
            **({} if allow is None else {"allowed": list(ranks.values()).count(2)}),
        }
        worst = min(ranks, key=lambda host: (ranks[host], host), default=None)
        return TextFindings({name: float(count) for name, count in signals.items()}, {"link_host": worst})

    def _rank(self, host: str) -> int:
        """Return 0 for a blocked host, 1 for one on no list, 2 for an allowed one."""
        block, allow = self._rules.block, self._rules.allow
        return 0 if block is not None and host in block else 2 if allow is not None and host in allow else 1


def _is_odd(link: Link) -> bool:
    return link.userinfo or link.idn or link.is_ip or link.port is not None


def weights() -> tuple[Path, ...]:
    """Return nothing: there are no weights."""
    return ()


@cache
def digest() -> str:
    """Return the hex SHA-256 of what decides the codes. Raises ModelError where zxing-cpp is missing."""
    if importlib.util.find_spec("zxingcpp") is None:
        raise ModelError(f"{NAME} needs the package zxing-cpp: pip install 'nsfwscan[text]'")
    return hashlib.sha256(f"zxing-cpp {metadata.version('zxing-cpp')} 1".encode()).hexdigest()
