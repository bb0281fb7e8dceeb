"""Speak S3 as stores do that are not AWS: checksums, deletes and listings in the words that all of them know.

AWS, known by the endpoint's name, gets what botocore sends: a CRC in a header or trailer, which the bucket keeps with
the object. Any other store gets what S3 has had since 2006: `Content-MD5` with each object, part and bulk delete, and
over HTTPS, too, a signature over the body. Both protect the bytes on their way; stores from before 2025 refuse the
first in many words (NotImplemented, InvalidArgument, MissingContentLength, XAmzContentSHA256Mismatch,
SignatureDoesNotMatch), and some want the second. The checksum that a store keeps is still asked for with each whole
object that is read, as long as the store takes the question.

A store without ListObjectsV2 is asked by ListObjects; callers do not see the difference. An answer to a listing that is
something else (a gateway's, a login page, a cut one) is a `NotAListing`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus, urlsplit, urlunsplit

from nsfwscan.config import Compatibility

# The DNS suffixes of AWS's partitions (botocore's partitions.json), dual-stack ones included.
_AWS = re.compile(
    r"(^|\.)(amazonaws\.com(\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.(com\.cn|eu)|c2s\.ic\.gov"
    r"|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov|api\.aws\.(ic\.gov|scloud|hci\.ic\.gov)"
    r"|api\.cloud-aws\.adc-e\.uk)$"
)
_SUMMED = frozenset({"PutObject", "UploadPart", "DeleteObjects"})
_LISTINGS = frozenset({"ListObjects", "ListObjectsV2"})
_CHECKSUMS = ("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")
_MODE = "x-amz-checksum-mode"
_NOT_TAKEN = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "501", "405"})
"""Codes of a store that does not know a request, or a part of it."""

_OURS = "marker:"
"""Beginning of a continuation token that is a key, for ListObjects; a store's own tokens mean nothing there."""

_ROOT = re.compile(rb"\s*(?:\xef\xbb\xbf)?(?:<\?.*?\?>|<!--.*?-->|\s)*<(?:\w+:)?(\w+)", re.DOTALL)
_LISTED = "ListBucketResult"
_END = re.compile(rb"</(?:\w+:)?ListBucketResult\s*>\s*\Z")
_NEXT_MARKER = re.compile(rb"<NextMarker>(.*?)</NextMarker>", re.DOTALL)
_FIRST_VERSION = re.compile(rb"<(?:Next)?Marker\b")


class NotAListing(OSError):
    """A store's answer to a listing that is no listing, or not a whole one. Another attempt may bring one."""


def speaks_aws(url: str) -> bool:
    """Return whether AWS itself answers at this URL, by its host's name."""
    return _AWS.search((urlsplit(url).hostname or "").lower()) is not None


def adapt(session: Any, compatibility: Compatibility) -> None:
    """Make all S3 clients of a session speak to each store in its dialect, and check what it lists."""
    dialect = _Dialect(compatibility)
    session.register("before-call.s3", dialect.fit)
    session.register("needs-retry.s3", dialect.learn)
    for operation in _LISTINGS:
        session.register(f"before-parse.s3.{operation}", dialect.look)
        session.register(f"after-call.s3.{operation}", dialect.check)


class _Dialect:
    """Facts about the stores that one session speaks to, by host."""

    def __init__(self, compatibility: Compatibility) -> None:
        self._compatibility = compatibility
        self._first_version: set[str] = set()
        """They list by ListObjects alone."""
        self._no_sums: set[str] = set()
        """They do not let us ask for checksums."""

    def _is_basic(self, url: str) -> bool:
        return self._compatibility == "basic" or (self._compatibility == "auto" and not speaks_aws(url))

    # Before a request

    def fit(self, model: Any, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        """Fit a request to the store. `before-call` of botocore, after the choice of checksums and before they are
        computed."""
        if model.name in _LISTINGS:
            asked = params.get("query_string") or {}
            context["listing"] = {"prefix": asked.get("prefix", ""), "after": asked.get("continuation-token")}
        if not self._is_basic(params["url"]):
            return
        _drop_checksums(params)
        if model.name in _SUMMED:
            body = params.get("body") or b""
            params["headers"]["Content-MD5"] = _md5(body.encode() if isinstance(body, str) else body)
            context["has_streaming_input"] = False  # or the signature would leave the body out, over HTTPS
        if model.name == "GetObject" and ("Range" in params["headers"] or _host(params) in self._no_sums):
            _ask_no_checksum(params)  # of a range, some stores give the checksum of the whole
        if model.name == "ListObjectsV2":
            after = context["listing"]["after"]
            if after.startswith(_OURS) if after else _host(params) in self._first_version:
                _to_first_version(params)

    # After an answer

    def learn(self, response: Any, operation: Any, request_dict: dict[str, Any], **_: Any) -> float | None:
        """Ask again, at once and in older words, what the store does not know. `needs-retry` of botocore."""
        if response is None or response[0].status_code < 300 or not self._is_basic(request_dict["url"]):
            return None
        code = str(response[1].get("Error", {}).get("Code") or response[0].status_code)
        begins = operation.name == "ListObjectsV2" and "list-type=2&" in request_dict["url"] + "&"
        if begins and code in _NOT_TAKEN and not request_dict["context"]["listing"]["after"]:
            self._first_version.add(_host(request_dict))
            _to_first_version(request_dict)
            return 0.0
        asks = operation.name == "GetObject" and _MODE in request_dict["headers"]
        if asks and code in _NOT_TAKEN | {"SignatureDoesNotMatch"}:
            self._no_sums.add(_host(request_dict))
            _ask_no_checksum(request_dict)
            return 0.0
        return None

    def look(self, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
        """Keep of a listing's XML what botocore's parser leaves out. `before-parse` of botocore."""
        body: bytes = response_dict["body"]
        if response_dict["status_code"] not in (200, 500) or (response_dict["status_code"] == 500 and not body):
            return
        found, marker = _ROOT.match(body), _NEXT_MARKER.search(body)
        root = found.group(1).decode() if found else ""
        if root == "Error":  # with status 200, as S3 may have it: botocore knows
            return
        if root != _LISTED or not _END.search(body):
            # botocore has made a 500 of what is no XML, to ask again in its own way and to say no more than that.
            response_dict.update(status_code=200, body=b"<none/>")
        customized_response_dict["nsfwscan"] = {
            "root": root,
            "whole": _END.search(body) is not None,
            "begins": body[:80].decode(errors="replace"),
            "first_version": _FIRST_VERSION.search(body) is not None,
            "next_marker": unescape(marker.group(1).decode()) if marker else None,
        }

    def check(self, http_response: Any, parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        """Raise NotAListing unless the answer is one whole page of what was asked. `after-call` of botocore."""
        seen = parsed.pop("nsfwscan", None)
        if http_response.status_code >= 300 or seen is None:
            return
        asked = context.get("listing", {"prefix": "", "after": None})
        if seen["root"] != _LISTED:
            begins = " ".join(seen["begins"].split())
            raise NotAListing(f"what answers is no listing but begins {begins!r}" if begins else "the answer is empty")
        if not seen["whole"]:
            raise NotAListing("the answer is no whole XML: it is cut off")
        if missing := [name for name in ("Name", "IsTruncated") if parsed.get(name) in (None, "")]:
            raise NotAListing(f"the listing has no {' and no '.join(missing)}: it is not whole, or not a store's")
        _check_entries(parsed, asked["prefix"])
        if not parsed["IsTruncated"] or "NextContinuationToken" in parsed:
            if parsed["IsTruncated"] and parsed["NextContinuationToken"] == asked["after"]:
                raise NotAListing("the listing goes on from where it went on before: the same continuation token again")
            return
        token = _next_marker(parsed, seen)
        if not seen["first_version"] or token is None or token == asked["after"]:
            raise NotAListing("the listing breaks off: it says that there is more, and not how to go on")
        self._first_version.add(urlsplit(http_response.url).hostname or "")
        parsed["NextContinuationToken"] = token


def _check_entries(page: dict[str, Any], prefix: str) -> None:
    objects, folders = page.get("Contents", []), page.get("CommonPrefixes", [])
    names = [item.get("Key") for item in objects] + [item.get("Prefix") for item in folders]
    if not all(names):
        raise NotAListing("the listing has an entry without a name")
    if stray := next((name for name in names if not name.startswith(prefix)), None):
        raise NotAListing(f"the listing has {stray!r}, which does not begin with {prefix!r} as was asked")
    if page.get("KeyCount", 0) > len(names):
        raise NotAListing(f"the listing has {len(names):,} of the {page['KeyCount']:,} entries that it announces")


def _next_marker(page: dict[str, Any], seen: dict[str, Any]) -> str | None:
    """Return where ListObjects goes on, as a token of ours. Without a delimiter it does not say so: behind the last
    key."""
    written: str | None = seen["next_marker"]
    if written is not None:
        return _OURS + (unquote_plus(written) if page.get("EncodingType") == "url" else written)
    last = [item["Key"] for item in page.get("Contents", [])[-1:]]
    last += [item["Prefix"] for item in page.get("CommonPrefixes", [])[-1:]]
    return _OURS + max(last) if last else None


def _drop_checksums(request: dict[str, Any]) -> None:
    chosen = request["context"].get("checksum", {})
    chosen.pop("request_algorithm", None)
    chosen.pop("request_algorithm_header", None)
    for name in [name for name in request["headers"] if name.lower().startswith(_CHECKSUMS) and name.lower() != _MODE]:
        del request["headers"][name]


def _ask_no_checksum(request: dict[str, Any]) -> None:
    request["context"].get("checksum", {}).pop("response_algorithms", None)
    if _MODE in request["headers"]:
        del request["headers"][_MODE]


def _to_first_version(request: dict[str, Any]) -> None:
    """Turn a request into ListObjects: a token is the key behind which to go on."""
    parts = urlsplit(request["url"])
    asked = parse_qsl(parts.query, keep_blank_values=True)
    names = {"continuation-token": "marker", "start-after": "marker"}
    dropped = {"list-type", "fetch-owner"}
    pairs = [(names.get(name, name), value.removeprefix(_OURS)) for name, value in asked if name not in dropped]
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    request["url"] = urlunsplit(parts._replace(query=query))


def _host(request: dict[str, Any]) -> str:
    return urlsplit(request["url"]).hostname or ""


def _md5(body: Any) -> str:
    if hasattr(body, "read"):
        start = body.tell()
        digest = hashlib.file_digest(body, lambda: hashlib.md5(usedforsecurity=False)).digest()
        body.seek(start)
    else:
        digest = hashlib.md5(body, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
