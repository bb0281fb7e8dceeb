"""Verify the C2PA manifests of a file, with the library c2pa-python (the extra `c2pa`).

Nothing is fetched: a manifest that lies elsewhere is not verified, and nobody asks whether a certificate was revoked.
The library is Rust that reads strangers' bytes: this runs in a decode child (`sandbox/`). A file without a manifest, or
of a format that the library does not read, has none of these signals:

    c2pa.valid              signed, and of these very bytes; anybody can sign
    c2pa.valid.<term>       a DigitalSourceType that the valid manifest's own actions name
    c2pa.trusted            valid, and the signer's certificate leads to one of the trust list
    c2pa.invalid            not valid
    c2pa.invalid.<code>     why: failures by the specification's codes (C2PA Technical Specification 2.1, 15.2);
                            `unreadable`: it cannot be parsed; `verifier`: the verifier did not survive it
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from typing import Any

from nsfwscan.images.provenance.signals import SOURCE_TYPES, Signals

INSTALL = "pip install 'nsfwscan[c2pa]'"
UNVERIFIABLE = {"c2pa.invalid": 1.0, "c2pa.invalid.verifier": 1.0}
"""Signals of a file that the verifier did not survive."""
_REASONS = 4
_CODE = re.compile(r"[A-Za-z0-9_.]{1,48}")
_UNTRUSTED = ("signingCredential.untrusted", "timeStamp.untrusted")
"""Failures that leave a manifest valid."""
_TERM = "/digitalsourcetype/"
_SETTINGS: dict[str, Any] = {
    "version": 1,
    "core": {"decode_identity_assertions": False},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_timestamp_trust": False},
}


def can_verify() -> bool:
    """Return whether the extra is installed."""
    return find_spec("c2pa") is not None


class Verifier:
    """Verifies manifests in this process, which must not be forked afterwards.

    Args:
        trust: certificates that are trusted, PEM: authorities', or signers' own; empty: none.
    """

    def __init__(self, trust: str) -> None:
        import c2pa

        listed = [{"trust_kind": "manifest", "trust_anchors": trust, "allowed_list": trust}] if trust else []
        self._c2pa = c2pa
        self._context = c2pa.Context.from_dict({**_SETTINGS, "trust": {"anchors": listed}})

    def __call__(self, data: bytes) -> Signals:
        """Return the signals of a whole file that has a manifest. Raises MemoryError."""
        try:
            return self._read(data)
        except (self._c2pa.C2paError.NotSupported, self._c2pa.C2paError.RemoteManifest):
            return {}
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # whatever it stumbles over is the file's
            return {"c2pa.invalid": 1.0, "c2pa.invalid.unreadable": 1.0}

    def _read(self, data: bytes) -> Signals:
        with self._c2pa.Reader(None, io.BytesIO(data), context=self._context) as reader:
            state, found = reader.get_validation_state(), reader.get_validation_results()
            active = reader.get_active_manifest()
        if state not in ("Valid", "Trusted"):
            return {"c2pa.invalid": 1.0, **{f"c2pa.invalid.{code}": 1.0 for code in _failures(found or {})}}
        said = {"c2pa.valid": 1.0, **({"c2pa.trusted": 1.0} if state == "Trusted" else {})}
        return said | {f"c2pa.valid.{term}": 1.0 for term in _source_types(active or {})}


def _source_types(manifest: dict[str, Any]) -> Iterator[str]:
    for assertion in manifest.get("assertions", ()):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in assertion.get("data", {}).get("actions", ()):
                _, is_one, term = str(action.get("digitalSourceType", "")).rpartition(_TERM)
                if is_one:
                    yield term if term in SOURCE_TYPES else "other"


def _failures(results: dict[str, Any]) -> list[str]:
    """Return the first few codes of what failed, each once: of the manifest, then of its ingredients."""
    parts = [results.get("activeManifest", {})]
    parts += [one.get("validationDeltas", {}) for one in results.get("ingredientDeltas") or ()]
    codes = (str(one.get("code")) for part in parts for one in part.get("failure", ()))
    known = (code for code in codes if code not in _UNTRUSTED and _CODE.fullmatch(code))
    return list(islice(dict.fromkeys(known), _REASONS))
