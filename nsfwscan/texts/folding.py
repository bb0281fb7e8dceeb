"""Undo what people do to words so that a filter does not find them.

A text is searched in two forms. `plain` keeps what it says: compatibility forms (full width, ligatures, mathematical
letters) become letters, invisible characters and accents go, all is in lower case. `unmasked` goes further, and may
also spoil a harmless text: letters of other scripts become the Latin ones that they look like, digits and signs the
letters that they stand for, letters with spaces or dots between them a word, and four equal letters two.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_INVISIBLE = frozenset({"Cf", "Cc", "Mn", "Me"})
_SPACED = re.compile(r"(?<!\w)\w(?:[\s.\-_*]\w){2,}(?!\w)")
_LONG = re.compile(r"(.)\1{2,}")
_SYNTAX = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[^}]*\}|x..|[pP]?.)|\(\?P?<[^>]*>|\(\?[imsU-]+[:)]|\[:\^?\w+:\]", re.S)
"""Parts of RE2's regular expressions in which letters do not mean themselves: escapes, names, flags, classes."""
_LEET = str.maketrans("013457@$!|€", "oieastasiie")


def plain(text: str) -> str:
    """Return the text in lower case, without what is invisible and without accents; line breaks become spaces."""
    return re.sub(r"\s+", " ", _visible(text)).strip()


def unmasked(text: str) -> str:
    """Return the text as `plain`, without what masks its words."""
    shown = _visible(text).translate(_look_alikes()).translate(_LEET)
    shown = _SPACED.sub(lambda found: re.sub(r"[\W_]", "", found[0]), shown)  # two spaces end a word
    return re.sub(r"\s+", " ", _LONG.sub(r"\1\1", shown)).strip().casefold()


def pattern_of(expression: str) -> str:
    """Return a regular expression (RE2's) with its letters as `plain` has those of a text, which it would not find
    otherwise: `Für` finds `fur`."""
    folded, at = [], 0
    for syntax in _SYNTAX.finditer(expression):
        folded += [_visible(expression[at : syntax.start()]), syntax[0]]
        at = syntax.end()
    return "".join([*folded, _visible(expression[at:])])


@cache
def _look_alikes() -> dict[int, str]:
    """Return the Latin letter that a letter of another script looks like, by Unicode's confusables."""
    from confusable_homoglyphs import confusables

    found = {}
    for letter, others in confusables.confusables_data.items():
        latin = [one["c"] for one in others if len(one["c"]) == 1 and one["c"].isascii() and one["c"].isalpha()]
        if len(letter) == 1 and not letter.isascii() and latin:
            found[ord(letter)] = latin[0]
    return found


def _visible(text: str) -> str:
    spread = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in spread if c.isspace() or unicodedata.category(c) not in _INVISIBLE)
    return unicodedata.normalize("NFC", kept.casefold())
