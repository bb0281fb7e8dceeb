"""C2PA manifests, signed here with certificates of our own: what is valid, what is trusted, what is not and why; and that
none of it costs more than the file's own row."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import nsfwscan
from nsfwscan.config import DecodeConfig, ScanConfig, StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.images.decoder import decode
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance import credentials, trust
from nsfwscan.images.provenance.credentials import Verifier
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.stages.decode import settings_of
from tests.images.provenance.test_signals import VOCABULARY, encoded, with_manifest

c2pa = pytest.importorskip("c2pa")

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif", "HEIF": "image/heic",
        "TIFF": "image/tiff", "GIF": "image/gif"}  # fmt: skip
AI = VOCABULARY.decode() + "trainedAlgorithmicMedia"
MADE = [{"action": "c2pa.created", "digitalSourceType": AI}]
GEOMETRY = Geometry((16, 16), 2)


def certificate(name: str, key: Any, issuer: Any, issuer_key: Any, *, authority: bool, seconds: float = 1e6) -> Any:
    """A certificate as C2PA asks for it (14.5.1): a signer's has a purpose, an authority's may sign others."""
    named = [x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, one)]) for one in (name, issuer)]
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
         "encipher_only", "decipher_only"), False)  # fmt: skip
    builder = (
        x509.CertificateBuilder(named[1], named[0], key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(seconds=seconds))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def signer(authority: str = "Authority", seconds: float = 1e6) -> tuple[str, str, str]:
    return _signer(authority, seconds)


@cache
def _signer(authority: str, seconds: float) -> tuple[str, str, str]:
    """The certificates of a signer, its own first; its key; and the authority's certificate."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    root = certificate(authority, keys[0], authority, keys[0], authority=True)
    own = certificate("Signer", keys[1], authority, keys[0], authority=False, seconds=seconds)
    pem, (trusted, leaf) = (
        serialization.Encoding.PEM,
        (one.public_bytes(serialization.Encoding.PEM).decode() for one in (root, own)),
    )
    key = keys[1].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return leaf + trusted, key, trusted


@cache
def signed(fmt: str = "JPEG", seconds: float = 1e6, elsewhere: str | None = None) -> bytes:
    """A picture with a manifest that says that a generator made it.

    Args:
        elsewhere: where the manifest is said to lie, and not in the file.
    """
    chain, key, _ = signer(seconds=seconds)
    said: dict[str, Any] = {"claim_generator_info": [{"name": "tests", "version": "1"}], "title": "picture"}
    said["assertions"] = [{"label": "c2pa.actions.v2", "data": {"actions": MADE}}]
    out = io.BytesIO()
    unchecked = c2pa.Context.from_dict(
        {"verify": {"verify_after_sign": False}, "builder": {"thumbnail": {"enabled": False}}}
    )
    info = c2pa.C2paSignerInfo(b"es256", chain.encode(), key.encode(), None)
    with c2pa.Signer.from_info(info) as own, c2pa.Builder(said, context=unchecked) as builder:
        if elsewhere is not None:
            builder.set_no_embed()
            builder.set_remote_url(elsewhere)
        builder.sign(own, MIME[fmt], io.BytesIO(encoded(fmt)), out)
    return out.getvalue()


def verified(data: bytes, trusted: str = "") -> dict[str, float]:
    found = decode(data, max_pixels=10**8, examined=True, verify=Verifier(trusted)).facts["signals"] or {}
    return {name: value for name, value in found.items() if name.startswith("c2pa.")}


@pytest.mark.parametrize("fmt", MIME)
def test_a_signed_picture_is_valid(fmt: str) -> None:
    """In every format: whole, signed, and of these bytes; with what its own actions say of its making. Nobody vouches
    for the signer."""
    found = verified(signed(fmt))
    assert found["c2pa.valid"] == found["c2pa.valid.trainedAlgorithmicMedia"] == found["c2pa.manifest"] == 1
    assert not {"c2pa.trusted", "c2pa.invalid"} & found.keys()


def test_a_trust_list_says_whose_word_counts() -> None:
    """A signer by an authority of the list is trusted, or one that is listed itself; another's is valid all the same."""
    chain, _, root = signer()
    assert verified(signed(), root)["c2pa.trusted"] == verified(signed(), root)["c2pa.valid"] == 1
    assert "c2pa.trusted" in verified(signed(), chain[: chain.index("-----END") + 26])
    other = verified(signed(), signer("Another")[2])
    assert other["c2pa.valid"] == 1 and "c2pa.trusted" not in other


def test_what_was_changed_is_invalid() -> None:
    """A byte of the picture, or of the claim; the reason is the specification's code."""
    data = bytearray(signed())
    data[-20] ^= 1
    found = verified(bytes(data), signer()[2])
    assert found["c2pa.invalid"] == found["c2pa.invalid.assertion.dataHash.mismatch"] == 1
    assert not {"c2pa.valid", "c2pa.trusted", "c2pa.valid.trainedAlgorithmicMedia"} & found.keys()
    forged = signed().replace(b"trainedAlgorithmicMedia", b"digitalCaptureeeeeeeeee")
    found = verified(forged, signer()[2])
    assert found["c2pa.invalid"] == 1 and any("hashedURI.mismatch" in name for name in found)


@pytest.mark.long
def test_an_expired_certificate_is_invalid() -> None:
    """Without a time stamp, nobody knows that it was valid when it signed."""
    data = signed(seconds=5)
    time.sleep(7)
    found = verified(data)
    assert found["c2pa.invalid"] == found["c2pa.invalid.signingCredential.expired"] == 1


def test_what_nobody_signed_is_invalid() -> None:
    """Words in a box are no manifest, and half of a manifest is none; a file without one says nothing."""
    for data in (with_manifest("JPEG", b"words"), with_manifest("PNG")):
        found = verified(data)
        assert found["c2pa.invalid"] == found["c2pa.manifest"] == 1 and "c2pa.valid" not in found
    data = signed()
    at = data.index(b"c2pa.signature") + 900
    found = verified(data[:at] + bytes(64) + data[at + 64 :])
    assert found["c2pa.invalid"] == 1 and "c2pa.valid" not in found
    assert verified(encoded()) == {}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_a_picture_that_is_cut_off_is_invalid(fmt: str) -> None:
    """What is left is still decoded, and its manifest is not of these bytes."""
    data = signed(fmt)
    found = decode(data[: len(data) - 300], max_pixels=10**8, examined=True, verify=Verifier("")).facts["signals"]
    assert found["decode.salvaged"] == found["c2pa.invalid"] == found["c2pa.manifest"] == 1


def test_a_picture_with_a_damaged_header_is_invalid() -> None:
    """A segment that no decoder knows costs it neither its picture nor its manifest."""
    data = signed().replace(b"\xff\xdb", b"\xff\x02\0\4ab\xff\xdb", 1)
    found = decode(data, max_pixels=10**8, examined=True, verify=Verifier("")).facts["signals"]
    assert found["decode.salvaged"] == found["c2pa.invalid"] == found["c2pa.manifest"] == 1


@pytest.fixture(scope="module")
def child() -> Iterator[DecodeChild]:
    own = DecodeChild(settings_of(DecodeConfig(c2pa=True), GEOMETRY, trust=signer()[2]))
    yield own
    own.close()


def test_the_decode_child_verifies(child: DecodeChild) -> None:
    """Confined as it is, it gives the same signals as this process."""
    data = signed()
    inside = child.decode(data)[0]["signals"]
    assert inside == decode(data, max_pixels=10**8, examined=True, verify=Verifier(signer()[2])).facts["signals"]
    assert inside["c2pa.trusted"] == 1 and child.decode(encoded("PNG"))[0]["signals"] is None


def test_a_verifier_that_dies_hides_no_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A manifest that the verifier does not survive, or not in time, costs that verdict; the picture is decoded. Its
    copies are not verified again."""
    (tmp_path / "c2pa.py").write_text(
        "import os, time\n"
        "class C2paError(Exception):\n    class NotSupported(Exception): ...\n    class RemoteManifest(Exception): ...\n"
        "class Context:\n    @classmethod\n    def from_dict(cls, said): return cls()\n"
        "class Reader:\n"
        "    def __init__(self, form, stream, context):\n"
        "        time.sleep(60) if b'slowly' in stream.read() else os.abort()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = DecodeChild(settings_of(DecodeConfig(c2pa=True, timeout_s=1), GEOMETRY))
    try:
        for data, before in ((with_manifest("JPEG"), 0), (with_manifest("JPEG", b"slowly"), 1)):
            found, pixels = own.decode(data)
            assert found["signals"]["c2pa.invalid.verifier"] == found["signals"]["c2pa.manifest"] == 1
            assert found["width"] == 96 and len(pixels) == GEOMETRY.nbytes
            workers = own.workers
            assert own.decode(data)[0]["signals"] == found["signals"] and own.workers == workers > before
    finally:
        own.close()


def test_nobody_is_asked_anything(child: DecodeChild) -> None:
    """A manifest that lies elsewhere is not fetched, and is neither valid nor invalid."""
    found = child.decode(signed(elsewhere="http://127.0.0.1:9/a.c2pa"))[0]["signals"]
    assert {name for name in found if name.startswith("c2pa")} == {"c2pa.remote_manifest"}


@pytest.mark.long
def test_a_night_with_a_trust_list(tmp_path: Path) -> None:
    """Signals in the report and for rules; another list makes rows anew, and one that changes in between is told."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "made.jpg").write_bytes(signed())
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nrules:\n  - {name: made, when: \"signals['c2pa.trusted'] = 1 and signals['c2pa.valid.trainedAlgorithmicMedia'] = 1\","
        " decision: review, queue: synthetic}\notherwise: {decision: allow}\n"
    )
    listed = tmp_path / "trust.pem"
    listed.write_text(signer()[2])
    given: dict[str, Any] = {"policy": str(policy), "decode": {"c2pa_trust": str(listed)}}
    first = nsfwscan.scan(tmp_path / "media", tmp_path / "out", run_id="1", **given)
    [row] = first.to_arrow(["rule", "signals"]).to_pylist()
    assert row["rule"] == "made" and signals_of_row(row["signals"])["c2pa.trusted"] == 1
    assert first.record.config.decode.c2pa_trust_sha256 is not None
    listed.write_text(signer("Another")[2])
    other = nsfwscan.scan(tmp_path / "media", tmp_path / "out", run_id="2", **given)
    assert "carried" not in other.record.plan.actions and other.to_arrow(["rule"]).to_pylist() == [
        {"rule": "otherwise"}
    ]
    assert any(one.name == "decode.c2pa_trust_sha256" for one in other.record.differences)
    decoding = other.record.config.decode.model_copy(update={"c2pa_trust": str(policy)})
    with pytest.raises(ConfigError, match="holds no certificates"):
        trust.with_trust(decoding, StorageConfig())
    listed.write_text(signer()[2])
    with pytest.raises(ConfigError, match="is not the one that the run began with"):
        trust.trust_list(other.record.config.decode, StorageConfig())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who asks for it is told what to install; nothing is asked of others."""
    monkeypatch.setattr(credentials, "find_spec", lambda name: None)
    (tmp_path / "a.jpg").write_bytes(signed())
    [plain] = nsfwscan.classify(str(tmp_path / "a.jpg"))
    assert "c2pa.manifest" in plain.signals and "c2pa.valid" not in plain.signals
    with pytest.raises(ConfigError, match=r"pip install 'nsfwscan\[c2pa\]'"):
        nsfwscan.classify(str(tmp_path / "a.jpg"), decode={"c2pa": True})


def test_settings_that_contradict() -> None:
    """A trust list means that manifests are verified; what cannot be both is refused."""
    assert DecodeConfig.of({"c2pa_trust": "a.pem"}).c2pa
    for wrong in ({"c2pa_trust": "a.pem", "c2pa": False}, {"c2pa": True, "provenance": False}):
        with pytest.raises(ConfigError, match="c2pa"):
            DecodeConfig.of(wrong)
    plain = ScanConfig.of({"source": {"uris": ["a"]}, "out": "b"}).deciding()
    assert not any("c2pa" in name for name in plain)
