"""Tell a video by its content, and whether videos are decoded here: PyAV (`av`) is an extra, `nsfwscan[video]`.

Nothing here imports PyAV. `videos.py` does, in the decode child alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats.content_names import content_of

INSTALL = "pip install 'nsfwscan[video]'"
"""What the extra is installed by."""


@dataclass(frozen=True)
class Container:
    """A kind of file that videos come in.

    Args:
        name: the report's `format`.
        demuxer: FFmpeg's name of what reads it; no other is tried.
        called: as `content_names.yaml` names it.
        is_sound: it says that it is a recording, which does not keep a video out of it.
    """

    name: str
    demuxer: str
    called: str
    is_sound: bool = False


READ = (
    Container("MP4", "mov", "an MP4 video (MPEG-4)"),
    Container("MP4", "mov", "a mobile phone's video (3GP)"),
    Container("MOV", "mov", "a QuickTime video (MOV)"),
    Container("WEBM", "matroska", "a WebM video"),
    Container("MKV", "matroska", "a Matroska video (MKV)"),
    Container("AVI", "avi", "an AVI video"),
    Container("TS", "mpegts", "an MPEG transport stream (TS)"),
    Container("OGG", "ogg", "an Ogg video (OGV)"),
    Container("MP4", "mov", "an MPEG-4 recording (M4A)", is_sound=True),
)
CONTAINERS = tuple(dict.fromkeys(found.name for found in READ))
"""The formats of videos, as the report has them."""

_BY_CALL = {found.called: found for found in READ}
_MAY_BE = re.compile(
    rb".{4}(?:ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|RIF[FX].{4}AVI |OggS|\x47.{187}\x47|.{4}\x47.{191}\x47",
    re.DOTALL,
)
"""How videos begin, and few images do: only such a file is looked at closer."""


HEAD_BYTES = 65_536
"""The first bytes of a file, which tell whether it is a video."""


def container_of(data: bytes) -> Container | None:
    """Return the kind of video that a file is; None where it is none, or none that is decoded."""
    found = _BY_CALL.get(content_of(data).name) if _MAY_BE.match(data) else None
    return None if found and found.is_sound and not videos_are_decoded() else found


def videos_are_decoded() -> bool:
    """Return whether the extra is installed."""
    return find_spec("av") is not None


def refuse_without_extra(container: Container) -> None:
    """Raise `RowError` (`unsupported`) where the extra is missing."""
    if not videos_are_decoded():
        words = f"not a format that is scanned here: looks like {container.called}; {INSTALL} adds videos"
        raise RowError(ErrorCode.VIDEO, words)
