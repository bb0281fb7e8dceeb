"""Read the small text files that a person gives: configurations, policies, price tables, benchmarks.

They may lie on this machine or anywhere that a bank may: S3, a web server, any fsspec URI.
"""

from __future__ import annotations

from pathlib import Path

from nsfwscan.config import StorageConfig, given_place
from nsfwscan.errors import ConfigError
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.objects import read_file


def read_text(uri: str, storage: StorageConfig, what: str) -> str:
    """Return the text of a file.

    Args:
        what: the file in words, for the message: `the policy`.

    Raises:
        ConfigError: the URI is no place or holds a password, or the file cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    doing = f"cannot read {what} {uri}"
    place = given_place(uri, what)
    try:
        return (Path(place.path).read_bytes() if place.is_local else read_file(place, storage)).decode()
    except UnicodeDecodeError:
        raise
    except STORE_ERRORS as error:
        raise ConfigError(str(setup_error(error, doing))) from None
