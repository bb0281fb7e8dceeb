"""Model card: what a checkpoint is, what it learned from, how good it is, and where not to trust it.

It is Markdown, with the hub's metadata at its head. Names that came with the data cannot break out of the Markdown
around them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from nsfwscan.text import printable, redacted


def model_card(record: dict[str, Any]) -> str:
    """Return the card of a finished training, from the content of `training.json`."""
    return _template().render(record)


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; `code` is what keeps names of strangers in their place
    )
    environment.filters |= {"code": _code, "figure": lambda value: f"{value:.4f}", "thousands": lambda n: f"{n:,}"}
    return environment.get_template("model_card.md")


def _code(value: Any) -> str:
    """Return a value as inline code, whatever is in it."""
    return "`" + printable(redacted(str(value))).replace("`", "'").replace("|", "¦") + "`"
