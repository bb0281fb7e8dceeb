"""Say in which language a text is, and which of its words a list in that language calls profane.

A word list says which words stand there, and not what is meant: "send nudes or I post your pics" has no profane word.
Language identification is wrong on short texts, so texts of 20 characters or fewer have none, and no profanity either:
a word that is harmless in one language is not looked up in another's list.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_SHORT = 20
"""Characters up to which a text has no language."""
_LISTS = {
    "ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "eo": "esperanto", "es": "spanish",
    "fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian",
    "ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese",
}  # fmt: skip
"""Names of glin-profanity's lists, by the codes that py3langid gives."""


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None for 20 characters or fewer."""
    if sum(not c.isspace() for c in text) <= _SHORT:
        return None
    import py3langid

    code: str = py3langid.classify(text)[0]
    return code


def profane_words(text: str, language: str | None) -> frozenset[str] | None:
    """Return the profane words of a text; None where no list is in its language, or that is not known."""
    if language not in _LISTS:
        return None
    return frozenset(_filter(_LISTS[language]).check_profanity(text)["profane_words"])


@cache
def _filter(language: str) -> Any:
    from glin_profanity import Filter

    return Filter({"languages": [language], "detect_leetspeak": True, "normalize_unicode": True})
