"""Text is encrypted for one who holds a private key; whoever scans cannot read it, and another key says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.texts.sealing import KEY_VARIABLE, Opener, Sealer, given_keys, key_id, make_key, read_public_key


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and a public key."""
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder / "private.pem", folder / "public.pem")
    return folder / "private.pem", folder / "public.pem"


def test_only_the_private_key_opens(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or the environment; equal texts look different, and show nothing of themselves."""
    private, public = keys
    sealer = Sealer(read_public_key(str(public), StorageConfig()))
    one, two = sealer.seal("wie alt bist du?"), sealer.seal("wie alt bist du?")
    assert one != two and b"alt" not in one
    assert Opener(given_keys([str(private)])).open(one, sealer.key_id) == "wie alt bist du?"
    monkeypatch.setenv(KEY_VARIABLE, private.read_text())
    assert Opener(given_keys([])).open(two, sealer.key_id) == "wie alt bist du?"


def test_a_missing_or_wrong_key_stops(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """With a message that names the key that is needed; a text that was changed is told, too."""
    private, public = keys
    sealer = Sealer(read_public_key(str(public), StorageConfig()))
    sealed = sealer.seal("text")
    other = make_key(tmp_path / "other.pem", tmp_path / "other.pub")
    with pytest.raises(ConfigError, match=f"for the key {sealer.key_id}, and the keys here are others .none is given"):
        Opener([]).open(sealed, sealer.key_id)
    with pytest.raises(ConfigError, match=f"others .{other}"):
        Opener(given_keys([str(tmp_path / "other.pem")])).open(sealed, sealer.key_id)
    with pytest.raises(ConfigError, match="was not encrypted for it, or was changed"):
        Opener(given_keys([str(private)])).open(sealed[:-1] + b"x", sealer.key_id)
    with pytest.raises(ConfigError, match="cannot read the key"):
        given_keys([str(tmp_path / "none.pem")])


def test_what_is_no_key_is_refused(keys: tuple[Path, Path], tmp_path: Path) -> None:
    """So is the private key where a scan asks for the public one, and the other way round; and nothing is overwritten."""
    private, public = keys
    (tmp_path / "text.pem").write_text("no key")
    for path, why in (
        (private, "is the private key"),
        (tmp_path / "text.pem", "no public key"),
        (tmp_path, "cannot read"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_public_key(str(path), StorageConfig())
    with pytest.raises(ConfigError, match=r"public\.pem is no private key"):
        Opener(given_keys([str(public)]))
    with pytest.raises(ConfigError, match="cannot write the key"):
        make_key(private, tmp_path / "new.pub")
    assert private.stat().st_mode & 0o777 == 0o600 and len(key_id(read_public_key(str(public), StorageConfig()))) == 16
