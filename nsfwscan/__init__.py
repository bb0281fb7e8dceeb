"""nsfwscan: scans a media store for NSFW and harmful images, and leaves a report that people can trust.

    import nsfwscan

    result = nsfwscan.scan(["s3://media/2026/11/"], out="s3://reports/media")
    [image] = nsfwscan.classify(["photo.jpg"])

Importing this imports neither ray nor torch; they come with the first call that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "classify", "explain", "scan"]

if TYPE_CHECKING:
    from nsfwscan.api import classify, explain, scan


def __dir__() -> list[str]:
    """Return the module's names, those that come with the first call included."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in __all__:
        from nsfwscan import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
