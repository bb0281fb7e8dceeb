"""Hold the configuration: one frozen model per section, read from YAML and options, unknown keys refused.

A wrong key or value is a `ConfigError` that names it. Secrets are never part of it: credentials come from the
environment or a profile, `storage.options` (which may hold some) is left out of `public()`, and a URI with a password
is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from nsfwscan.documents import load_yaml
from nsfwscan.errors import ConfigError
from nsfwscan.location import Location
from nsfwscan.schema import SIGNAL_GROUPS, BankKind
from nsfwscan.text import has_password, redacted_json

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Share = Annotated[float, Field(ge=0, le=1)]
Compatibility = Literal["auto", "aws", "basic"]
"""How S3 is spoken. `aws`: as botocore does it; `basic`: as any S3 store takes it; `auto`: by the endpoint's name."""

PASSWORD_IN_URI = (
    "a URI must not hold a password, since it is written down with the report: give it by the environment, "
    "--profile or storage.options"
)


def given_place(written: str, what: str) -> Location:
    """Return the place that a person names. Raises ConfigError where it is no place, or holds a password.

    Args:
        what: the option or the file in words, for the message: `--out`, `the policy`.
    """
    if has_password(written):
        raise ConfigError(PASSWORD_IN_URI)
    try:
        return Location.given(written)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None


def _one_spelling(uri: str) -> str:
    if has_password(uri):
        raise ValueError(PASSWORD_IN_URI)
    return Location.given(uri).uri


Reader = Callable[[str], str]
"""A function that returns the text of the file at a path or URI, or raises ConfigError."""


def read_local(path: str) -> str:
    """Return the text of a file of this machine. Raises ConfigError, and UnicodeDecodeError where it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None


Uri = Annotated[str, AfterValidator(_one_spelling)]
"""A path or URI without `user:password@`, in its canonical spelling."""
NO_PLACE = ""
"""`out` of a command that writes no report."""


def _one_spelling_or_none(uri: str) -> str:
    return uri if uri == NO_PLACE else _one_spelling(uri)


class Frozen(BaseModel):
    """A configuration that cannot be changed and does not accept what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    @classmethod
    def of(cls, values: dict[str, Any], path: str | None = None) -> Self:
        """Return the configuration that the values make.

        Args:
            path: the file that they come from, for the message.

        Raises:
            ConfigError: a key or value is wrong; the message names each, and repeats no value.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, path)) from None


class StorageConfig(Frozen):
    """How to reach an object store; unset fields leave it to the usual AWS environment."""

    endpoint_url: Uri | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Server-side encryption that writing to S3 asks for; unset: the bucket's own."""
    sse_kms_key_id: str | None = None
    """The KMS key to encrypt with; `sse` is then `aws:kms` unless it says `aws:kms:dsse`."""
    s3_compatibility: Compatibility = "auto"
    """How S3 is spoken, see `storage/s3_dialect.py`: `aws` with checksums in headers and trailers, `basic` with
    Content-MD5, which all stores take; `auto`: `aws` with AWS itself, `basic` with any other endpoint."""
    s3_addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands: `path` in the path, `virtual` in the host; `auto`: in the path, but for AWS."""
    file_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0640"
    """Permissions of a report store's files on local disk, octal; of its folders, with search where it may be read. A
    stricter umask counts. Unset: owner and group read, nobody else."""
    options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Further keyword arguments for the fsspec filesystem, for stores that are neither local nor S3."""

    @property
    def mode(self) -> int:
        """`file_mode` as a number; the owner can always read and write."""
        return int(self.file_mode, 8) | 0o600

    @model_validator(mode="before")
    @classmethod
    def _key_means_kms(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("sse_kms_key_id") and not values.get("sse"):
            return {**values, "sse": "aws:kms"}
        return values

    @model_validator(mode="after")
    def _key_fits(self) -> Self:
        if self.sse_kms_key_id and self.sse == "AES256":
            raise ValueError("sse_kms_key_id is for sse aws:kms or aws:kms:dsse; AES256 takes no key")
        return self


class SourceConfig(Frozen):
    """What to scan."""

    uris: tuple[Uri, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1)
    truth: Uri = "path"
    """`path` (class folders), `none`, or a file with `uri` and `truth` columns."""
    allow: tuple[Uri, ...] = ()
    """Prefixes that rows of lists may have, and to which links may lead, beside those that the list's own place and
    `links` allow, see `sources/reach.py`."""
    links: Literal["follow", "within"] = "follow"
    """Symbolic links in folders. `follow`: they may lead anywhere but to the system's own places; `within`: only to
    places within the sources."""
    max_unmatched_truth: float = Field(0.5, ge=0, le=1)
    """Share of the truth file's objects within the sources that may be missing in the listing; if more are missing,
    nothing is scanned. Not used with a limit or filters, which leave objects out on purpose."""
    lists: tuple[Uri, ...] = ()
    """The `uris` that are lists of objects whatever they are called; a scan finds them and records them here."""


class ReadConfig(Frozen):
    """How objects are fetched."""

    max_bytes: int = Field(64 * 2**20, ge=1)
    max_video_bytes: int = Field(320 * 2**20, ge=1)
    """For videos, where it is more than `max_bytes`: an object over that is begun, and copied to a temporary file
    where it is a video. The worker's disk (TMPDIR) has it twice for a moment, its memory never."""
    concurrency: int = Field(16, ge=1, le=512)
    """Objects that each CPU actor reads at once."""
    timeout_s: float = Field(60.0, gt=0)
    """For each attempt to read one object."""
    attempts: int = Field(4, ge=1)
    max_requests_per_s: float | None = Field(None, gt=0)
    """Requests to the media store, listing and reading, of the whole run; unset: as many as it takes."""


class DecodeConfig(Frozen):
    """How bytes become pixels."""

    mode: Literal["fast", "exact", "gpu"] = "fast"
    """`fast`: a large JPEG is decoded at reduced scale, which moves scores by less than 0.02, unless `pdq` needs all of
    its pixels; `exact`: every image is decoded in full; `gpu`: so it is, ordinary JPEGs by the GPU that scores them,
    see `images/left_to_gpu.py`."""
    pdq: Literal["exact", "reduced", "off"] = "exact"
    """The perceptual hash. `exact`: the reference's, of all pixels; `reduced`: of what `mode` decodes, which moves a
    few of its 256 bits for large JPEGs; `off`: none."""
    provenance: bool = True
    """Whether `signals` has what the file says of its making, see `images/provenance`."""
    screenshots: bool = False
    """Whether `signals` says how likely a picture is one of a screen, or of a chat, see `images/screenshots.py`."""
    c2pa: bool = False
    """Whether C2PA manifests are verified, too, which needs the extra `c2pa`; else they are only found."""
    c2pa_trust: Uri | None = None
    """A file with the certificates (PEM) by which a signature of C2PA is trusted; `c2pa` is then true."""
    c2pa_trust_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The SHA-256 that this file must have; a scan finds it and records it here."""
    max_pixels: int = Field(100_000_000, ge=1)
    timeout_s: float = Field(20.0, gt=0)
    """Seconds for one image; a row that takes longer is `timeout`."""
    max_memory_bytes: int = Field(2 * 2**30, ge=2**26)
    """Memory of the decoding process beyond what it has at its start; a row that needs more is `crashed`."""
    most_failures: int = Field(3, ge=1)
    """Consecutive runs in which a file may be `timeout` or `crashed` in decoding; then it is not tried again until it
    or one of the two limits changes."""
    sandbox: Literal["auto", "required", "off"] = "auto"
    """How the decoding process is confined. `auto`: as far as the kernel can, and `run.json` says how far; `required`:
    the run stops where it cannot; `off`: not at all, for plugins that need files."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Further formats: Pillow's name of the format to the module that registers it, as `{JXL: pillow_jxl}`."""

    @model_validator(mode="before")
    @classmethod
    def _trust_means_c2pa(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("c2pa_trust") and "c2pa" not in values:
            return {**values, "c2pa": True}
        return values

    @model_validator(mode="after")
    def _verified_signals(self) -> Self:
        if self.c2pa_trust is not None and not self.c2pa:
            raise ValueError("c2pa_trust is for c2pa: true; without verifying, nothing is trusted")
        if self.c2pa and not self.provenance:
            raise ValueError("c2pa verifies what provenance finds: let provenance be true, or c2pa false")
        return self

    @model_validator(mode="after")
    def _on_the_gpu(self) -> Self:
        if self.mode != "gpu":
            return self
        if self.pdq != "off":
            raise ValueError(
                "mode gpu is for pdq: off (--pdq off): a PDQ hash is of the pixels that a core decodes, so each file "
                "would be decoded twice"
            )
        if self.screenshots:
            raise ValueError("screenshots looks at pixels on a core, which mode gpu saves: leave one of them out")
        if self.sandbox == "required":
            raise ValueError(
                "mode gpu decodes files in the process of the model, outside of the sandbox that is required: use mode "
                "fast or exact, or sandbox: auto"
            )
        return self

    @property
    def reduces(self) -> bool:
        """True if large JPEGs are decoded at reduced scale: nothing needs all of their pixels."""
        return self.mode == "fast" and self.pdq != "exact"


class ViewsConfig(Frozen):
    """What is looked at of a file with several frames or pages."""

    most: int = Field(8, ge=1, le=64)
    """Frames or pages that are scored at most, of those that look different; 1: the first one alone."""
    worst: int = Field(2, ge=1)
    """How many of them, the worst ones, make the scores of the object: their mean. 1: a single frame is a verdict."""
    tiles: bool = False
    """Whether pictures of more than a megapixel, strips, and pictures with a score in the `band` are cut into tiles,
    which are scored, too."""
    band: tuple[Share, Share] = (0.2, 0.8)
    """With `tiles`: a picture of any size is cut whose `nsfw_score` lies from the one to the other."""
    closer: int = Field(16, ge=0, le=64)
    """Further frames that are scored at most, around those of a video or an animation that scored high, to find where
    that begins and ends; 0: none."""
    spike: Share = 0.4
    """The `nsfw_score` of a frame from which on the frames around it are looked at."""
    max_pixels: int = Field(300_000_000, ge=0)
    """Pixels of all frames of a file that are looked at in small; `signals['view.unseen']` says what was left."""

    @property
    def looks_again(self) -> bool:
        """Whether any object may get a second look."""
        return self.tiles or (self.closer > 0 and self.most > 1)


class ModelConfig(Frozen):
    """Which weights score the images, and how they are run."""

    uri: Uri = "embedded:open-nsfw"
    """`embedded:open-nsfw`, `pack:NAME`, a directory, any fsspec URI of one, or a hub id."""
    dtype: Dtype = "auto"
    batch_size: int | None = Field(None, ge=1)
    """Images in a forward pass, padded to exactly this; unset: 8 on a CPU, 128 on a GPU."""
    compile: bool = False
    """Whether to use torch.compile: a tenth faster, after minutes of preparation (less on a node that has done it)."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Checkpoint label to category, beside the alias table."""


class DetectorConfig(ModelConfig):
    """A further model over the same decoding. `labels` are new names for the checkpoint's own."""

    when: Annotated[str, Field(min_length=1)] | None = None
    """Which rows it wants: an SQL condition over what is known by then, as in a policy. Unset: all that have pixels."""
    shadow: float = Field(0.01, ge=0, le=1)
    """Share of the contents that `when` holds back that are looked at all the same, to measure what it misses."""
    abstain: tuple[Share, Share] | None = None
    """Probabilities between these two say nothing: no rule sees them, and `signals['<detector>.abstained']` is 1."""

    @model_validator(mode="after")
    def _from_low_to_high(self) -> Self:
        if self.abstain is not None and self.abstain[0] >= self.abstain[1]:
            raise ValueError("abstain is a probability and a higher one: what lies between says nothing")
        return self


class TextConfig(Frozen):
    """What becomes of the text that detectors read in pictures, which may be personal data."""

    keep: bool = True
    """Whether `text/` beside the report has it; false: only what it comes to, in signals and columns."""
    patterns: tuple[Uri, ...] = ()
    """Lists of patterns that text is searched for (YAML): files, fsspec URIs, or those that come along, such as
    `example:en`; see `texts/patterns.py`."""
    block: Uri | None = None
    """A file of hosts, one a line: where a code in a picture leads to one, or below it, it is counted as blocked."""
    allow: Uri | None = None
    """The same of hosts that are known to be harmless."""
    key: Uri | None = None
    """A public key (X25519, PEM), a file or any fsspec URI: text is encrypted for the holder of the private one. Unset:
    it is written as it is."""

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.key is not None and not self.keep:
            raise ValueError("text.key encrypts text, which text.keep leaves out: give one of them")
        return self


class BankConfig(Frozen):
    """A list of known hashes, and what it means to be in it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The bank's name in the report's `match_bank`."""
    uri: Uri
    """A file: CSV, Parquet, JSON, JSON lines, or a hash a line; local, or any fsspec URI."""
    kind: BankKind = BankKind.BLOCK
    distance: int = Field(31, ge=0, le=31)
    """Most bits, of 256, in which a PDQ hash that matches may differ."""
    quality: int = Field(50, ge=0, le=100)
    """Least quality of an image's PDQ hash that is looked up."""
    hash: Literal["sha256", "md5", "pdq"] | None = None
    """What the hashes are, where the file does not say; 64 hex digits may be a SHA-256 or a PDQ hash."""
    column: str | None = None
    """The column that holds the hashes, where its name is none of the usual ones."""
    tags: tuple[str, ...] = ()
    """Only entries with one of these tags; unset: all."""
    categories: tuple[str, ...] = ()
    """Only entries of these categories, as the file has them; unset: all but those that the file calls not illegal."""


def _as_list(banks: Any) -> Any:
    """Return a mapping of banks by name as a list of them."""
    if not isinstance(banks, dict):
        return banks
    return [{"name": name, **bank} if isinstance(bank, dict) else bank for name, bank in banks.items()]


def _named_once(banks: tuple[BankConfig, ...]) -> tuple[BankConfig, ...]:
    names = [bank.name for bank in banks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two banks are called {twice!r}")
    return banks


Banks = Annotated[tuple[BankConfig, ...], BeforeValidator(_as_list), AfterValidator(_named_once)]
"""A list, or a mapping of names; of two that match equally well, the first counts."""


class CascadeConfig(Frozen):
    """Cheap filters before the model, which does not see the images that they settle as benign."""

    enabled: bool = False
    prefilter: ModelConfig = ModelConfig()
    """A light model."""
    threshold: float = Field(0.02, ge=0, le=1)
    """The prefilter's `nsfw_score` up to which an image is settled."""
    icon_pixels: int = Field(32, ge=0)
    """An image whose longest edge has no more pixels is settled."""
    audit_sample: float = Field(0.02, ge=0, le=1)
    """Share of the settled images that the model sees all the same, to measure how often the filters are wrong."""
    seed: int = 0
    """Seed of that sample."""


class ReportConfig(Frozen):
    """What is written, and when a committed run counts as a bad one."""

    mode: Literal["snapshot", "delta"] = "snapshot"
    """`snapshot`: a row for every listed object; `delta`: only for those that this run looked at, decided differently,
    or found alike to others than before."""
    save_images: bool = False
    max_error_rate: float = Field(0.05, ge=0, le=1)
    """Share of images that may be unreadable; with more, exit code 4. Objects that are no images do not count."""
    max_unsupported_rate: float = Field(0.8, ge=0, le=1)
    """Share of objects that may be no images; with more, exit code 5, as where nothing could be scored. An ordinary
    store has a video and a file of data beside each image: two thirds. Four fifths are more likely a wrong source, or
    a broken one. 1: a source may hold no image at all."""
    max_deleted_rate: float | None = Field(None, ge=0, le=1)
    """A run that misses more than this share of the objects that earlier runs knew stops before it reads any, with exit
    code 6. Unset: 0.2, and not for 20 objects or fewer."""


class DuplicatesConfig(Frozen):
    """What counts as the same."""

    near: int | None = Field(15, ge=0, le=31)
    """Most bits, of 256, in which the PDQ hashes of near-duplicates differ; null: they are not looked for."""
    most_contents: int = Field(5_000_000, ge=0)
    """Most contents that are all compared; of more, only the flagged ones are, since each takes memory."""


class PreviousConfig(Frozen):
    """How earlier runs are used."""

    reuse: bool = True
    """Carry over the rows of objects that have not changed; false (--full): read and score every object again."""
    ignore_runs: tuple[str, ...] = ()
    """Runs whose record is broken, which are left out."""


class GoldenConfig(Frozen):
    """A fixed set of objects that is scored first in every run, see `runs/golden.py`."""

    uri: Uri | None = None
    """A folder, prefix or list of objects that never change; unset: none."""
    tolerance: float = Field(0.02, ge=0, le=1)
    """By how much a score may move before the run stops. Machines, precisions and ways of decoding that count as the
    same differ by less than this."""
    accept: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] | None = None
    """Why scores and decisions may be others than before in this run; what they are now is expected from then on."""

    @model_validator(mode="after")
    def _of_a_set(self) -> Self:
        if self.accept is not None and self.uri is None:
            raise ValueError("there is no golden set whose drift could be accepted: golden.uri (--golden) is not set")
        return self


class CostConfig(Frozen):
    """What hours cost, and where rates come from; they decide nothing."""

    prices: Uri | None = None
    """A price table (YAML), a file or any fsspec URI, in place of `nsfwscan/prices.yaml`."""
    rates: Uri | None = None
    """The JSON of a benchmark (`jobs/bench.py --json`), in place of what earlier runs took."""


class EvidenceConfig(Frozen):
    """What proves a committed run to those who do not trust whoever may write to the store; it decides nothing."""

    anchor: Uri | None = None
    """A folder or prefix outside of the store, and for it alone: each commit leaves the digest of its `run.json`."""
    storage: StorageConfig | None = None
    """How to reach the anchor; unset: as the report store."""
    sign_key: Uri | None = None
    """An Ed25519 private key (PEM or OpenSSH), a file or any fsspec URI."""
    sign_command: str | None = Field(None, repr=False, exclude=True)
    """A command that reads the text to sign on standard input and prints its Ed25519 signature, as 64 bytes or in
    Base64; it is split as a shell would, and run without one."""

    @model_validator(mode="after")
    def _one_signer(self) -> Self:
        if self.sign_key and self.sign_command:
            raise ValueError("sign_key and sign_command: give one of them")
        return self


class NotifyConfig(Frozen):
    """Who is told what becomes of a run; it decides nothing, and never fails one."""

    url: SecretStr | None = Field(None, exclude=True)
    """A webhook (http or https), which may hold credentials."""
    timeout_s: float = Field(5.0, gt=0, le=60)
    """For each attempt."""
    attempts: int = Field(3, ge=1, le=10)


class ClusterConfig(Frozen):
    """Where Ray is."""

    address: str | None = None
    """A Ray cluster; unset: the one of the environment, or a local one."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a local Ray; unset: all of this machine's."""

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster to run on; None where there is none: a local Ray is started if one is needed."""
        return self.address or os.environ.get("RAY_ADDRESS") or None


class EngineConfig(ClusterConfig):
    """Where it runs, and when it gives up."""

    inline_rows: int = Field(1000, ge=0)
    """Most objects that are scanned in this process, without a cluster: sooner than a local Ray has started."""
    shard_rows: int = Field(256, ge=1, le=1000)
    seed: int = 0
    """Order in which shards are handed out."""
    deadline: str | None = None
    """When to stop, unfinished if need be: a duration (`90m`, `6h30m`) or an ISO 8601 time (`06:00`: the next one)."""
    stall_timeout_s: float = Field(1800.0, gt=0)
    """A run of which no worker has moved for this long is stopped."""
    max_attempts: int = Field(5, ge=1)
    """How often a shard may be begun and never finished before the run stops: something in it kills its worker."""


def _not_taken(name: str) -> str:
    if name in SIGNAL_GROUPS:
        raise ValueError(f"a detector must not be called {name!r}: there are other signals that begin so")
    return name


DetectorName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$"), AfterValidator(_not_taken)]


_UNSET = ("screenshots", "c2pa", "c2pa_trust_sha256")
"""Settings of decoding that are left out of what decides the rows where they are not set, as before there were any."""
UNWRITTEN: Any = {"storage": {"options"}, "out_storage": {"options"}, "evidence": {"storage": {"options"}}}
"""Keys of a `ScanConfig` that are never written down: they may hold a secret."""


class ScanConfig(Frozen):
    """Everything that one scan does."""

    source: SourceConfig
    out: Annotated[str, AfterValidator(_one_spelling_or_none)]
    """The report store; `NO_PLACE` where none is written."""
    storage: StorageConfig = StorageConfig()
    out_storage: StorageConfig | None = None
    """Unset: endpoint, region and profile of `storage`."""
    read: ReadConfig = ReadConfig()
    decode: DecodeConfig = DecodeConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    banks: Banks = ()
    cascade: CascadeConfig = CascadeConfig()
    detectors: dict[DetectorName, DetectorConfig] = Field(default_factory=dict)
    """Further models over the same decoding, asked in this order; their scores go to `signals`, as `<name>.<label>`."""
    text: TextConfig = TextConfig()
    policy: Uri | None = None
    """A policy file, or a preset's name; unset: the one that comes with the model."""
    shadow_policies: tuple[Uri, ...] = ()
    """Policies that decide nothing: what they would have decided is counted beside the decisions."""
    report: ReportConfig = ReportConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    previous: PreviousConfig = PreviousConfig()
    golden: GoldenConfig = GoldenConfig()
    engine: EngineConfig = EngineConfig()
    cost: CostConfig = CostConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    notify: NotifyConfig = NotifyConfig()

    @model_validator(mode="after")
    def _filters_with_another(self) -> Self:
        if self.cascade.enabled and self.cascade.prefilter.uri == self.model.uri:
            raise ValueError(
                f"cascade.prefilter is the model itself ({self.model.uri}), which would be asked twice: name a larger "
                "model (--model, --preset), or leave --cascade out"
            )
        if self.cascade.enabled and self.decode.mode == "gpu":
            raise ValueError(
                "cascade filters by pixels that a core decodes, which decode.mode gpu saves: use one of them"
            )
        return self

    def store_options(self) -> StorageConfig:
        """Return how to reach the report store. Anonymous reading and requester-pays concern the source alone."""
        if self.out_storage is not None:
            return self.out_storage
        return self.storage.model_copy(update={"anonymous": False, "requester_pays": False})

    def public(self) -> dict[str, Any]:
        """Return the configuration as it may be written down: JSON types, without anything that could be a secret."""
        shown: dict[str, Any] = redacted_json(self.model_dump(mode="json", exclude=UNWRITTEN))
        return shown

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the rows of a run (source, limits, model, policy; not where it runs), flat,
        as JSON values: `{"source.uris": […], …}`. A run can only be resumed with the same."""
        wanted: Any = {
            "source": True,
            "read": {"max_bytes", "max_video_bytes"},
            "decode": {"mode", "pdq", "provenance", *_UNSET, "max_pixels", "plugins"},
            "views": True,
            "model": True,
            "cascade": True,
            "detectors": True,
            "text": {"keep", "patterns", "block", "allow"},
            "policy": True,
            "report": {"mode"},
            "previous": True,
        }
        sections = redacted_json(self.model_dump(mode="json", include=wanted))
        del sections["source"]["max_unmatched_truth"]  # it stops a run or not, and decides no row
        for name in ("lists", "allow"):
            if not sections["source"][name]:  # as runs were begun before there were any
                del sections["source"][name]
        for name in _UNSET:
            if not sections["decode"][name]:
                del sections["decode"][name]
        plain = TextConfig()
        sections["text"] = {
            key: value for key, value in sections["text"].items() if getattr(self.text, key) != getattr(plain, key)
        }
        if not self.previous.ignore_runs:  # runs that were begun before there was such a setting go on
            del sections["previous"]["ignore_runs"]
        policy = {name: sections.pop(name) for name in ("policy", "detectors")}
        return policy | {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}

    @classmethod
    def load(
        cls, path: str | None, over: dict[str, Any], under: dict[str, Any] | None = None, read: Reader = read_local
    ) -> Self:
        """Read YAML (or nothing) and lay it over `under`, and `over` over both, section by section.

        Args:
            read: returns the text at `path`; unset: that of a file of this machine.

        Raises:
            ConfigError: the file cannot be read, or a key or value is wrong; the message names each.
        """
        return cls.of(merge(merge(under or {}, read_yaml(path, read) if path is not None else {}), over), path)


class Parts(Frozen):
    """The sections of a configuration file that commands beside `scan` read, too."""

    banks: Banks = ()
    evidence: EvidenceConfig = EvidenceConfig()
    notify: NotifyConfig = NotifyConfig()


def parts_of(path: str | None, over: dict[str, Any], read: Reader = read_local) -> Parts:
    """Return these sections of a configuration file, with others laid over them; there may be none. Raises ConfigError
    where one is wrong."""
    written = read_yaml(path, read) if path is not None else {}
    return Parts.of(merge({name: written[name] for name in Parts.model_fields if name in written}, over), path)


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top, nested sections merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def read_yaml(path: str, read: Reader = read_local) -> dict[str, Any]:
    """Return the mapping in a YAML file; of an empty file an empty one. Raises ConfigError, without a word of the
    file's."""
    try:
        loaded = load_yaml(read(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} is not YAML: {_problem(error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"the configuration {path} must be a mapping of sections, not a {type(loaded).__name__}")
    return loaded


def _problem(error: Exception) -> str:
    """Return what is wrong and where, without the words of the file, which may be a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    mark = error.problem_mark
    problem = re.sub("'[^']*'", "…", error.problem or "it cannot be parsed")
    return f"{problem}, in line {mark.line + 1}, column {mark.column + 1}"


def _explain(error: ValidationError, path: str | None) -> str:
    lines = [
        f"{'.'.join(map(str, e['loc'])) or 'configuration'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_input=False)
    ]
    return f"wrong configuration{f' in {path}' if path else ''}:\n  " + "\n  ".join(lines)
