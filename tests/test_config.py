"""The configuration refuses what it does not know, names what is wrong, and writes down nothing secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nsfwscan.config import ScanConfig, StorageConfig, digest_of, merge, parts_of
from nsfwscan.errors import ConfigError
from nsfwscan.images import colours, enclosed, salvage, screenshots, views
from nsfwscan.images.provenance import signals
from nsfwscan.schema import SIGNAL_GROUPS

MINIMAL: dict[str, Any] = {"source": {"uris": ["media"]}, "out": "reports"}


def load(**sections: Any) -> ScanConfig:
    return ScanConfig.load(None, merge(MINIMAL, sections))


def written(folder: Path, text: str) -> str:
    path = folder / "scan.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_sources_and_a_store_are_all_it_takes() -> None:
    """Everything but the source and the report store has a default."""
    config = load()
    assert config.source.uris == ("media",) and config.out == "reports"
    assert config.model.uri == "embedded:open-nsfw"
    assert config.policy is None


def test_options_lie_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    """Sections are merged key by key: an option beats the file, the file beats what a preset says."""
    path = written(
        tmp_path, "source: {uris: [media]}\nout: reports\nmodel: {uri: from-file, batch_size: 4}\npolicy: file"
    )
    under = {"model": {"uri": "from-preset", "labels": {"normal": "neutral"}}, "policy": "preset"}
    config = ScanConfig.load(path, {"model": {"batch_size": 16}}, under)
    assert config.model.uri == "from-file"
    assert config.model.batch_size == 16
    assert config.model.labels == {"normal": "neutral"}
    assert config.policy == "file"


def test_merging_leaves_its_arguments_alone() -> None:
    """`merge` gives a new mapping; a section that was null is replaced whole."""
    base: dict[str, Any] = {"a": {"x": 1}, "b": None}
    assert merge(base, {"a": {"y": 2}, "b": {"z": 3}}) == {"a": {"x": 1, "y": 2}, "b": {"z": 3}}
    assert base == {"a": {"x": 1}, "b": None}


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"modell": {}}, "modell"),
        ({"read": {"max_byte": 1}}, "read.max_byte"),
        ({"read": {"attempts": 0}}, "read.attempts"),
        ({"read": {"timeout_s": float("nan")}}, "read.timeout_s"),
        ({"source": {"limit": 0}}, "source.limit"),
        ({"source": {"uris": "media"}}, "source.uris"),
        ({"model": {"dtype": "int8"}}, "model.dtype"),
        ({"report": {"max_error_rate": 1.5}}, "report.max_error_rate"),
        ({"engine": {"shard_rows": 1001}}, "engine.shard_rows"),
    ],
)
def test_wrong_keys_and_values_are_named(sections: dict[str, Any], named: str) -> None:
    """A key that does not exist, or a value out of range, is a ConfigError that names its place; exit code 2."""
    with pytest.raises(ConfigError, match=rf"\n  {named}: ") as error:
        load(**sections)
    assert error.value.exit_code == 2


def test_all_faults_are_named_at_once() -> None:
    """Two wrong keys in two sections are both in the message."""
    with pytest.raises(ConfigError) as error:
        load(read={"attempts": 0}, decode={"pixels": 3})
    assert "read.attempts" in str(error.value) and "decode.pixels" in str(error.value)


def test_a_missing_section_is_named() -> None:
    """Without a source there is nothing to scan, and the message says so."""
    with pytest.raises(ConfigError, match="source: Field required"):
        ScanConfig.load(None, {"out": "reports"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "must be a mapping of sections, not a list"),
        ("source: [", "is not YAML"),
        ("source: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """A list, broken YAML, or YAML that would run code is a ConfigError with the file's name."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as error:
        ScanConfig.load(path, MINIMAL)
    assert path in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are a ConfigError, not a traceback."""
    path = tmp_path / "scan.yaml"
    path.write_bytes(b"out: \xff\xfe\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        ScanConfig.load(str(path), MINIMAL)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing file is named, with the reason."""
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        ScanConfig.load(str(tmp_path / "absent.yaml"), MINIMAL)


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    """A file with nothing but a comment changes nothing."""
    assert ScanConfig.load(written(tmp_path, "# nothing yet\n"), MINIMAL) == load()


def test_nobody_changes_it_afterwards() -> None:
    """A loaded configuration is frozen, its sections too."""
    config = load()
    with pytest.raises(ValidationError, match="frozen"):
        config.out = "elsewhere"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.read.attempts = 1  # type: ignore[misc]


def test_storage_options_are_not_written_down() -> None:
    """`public()` has endpoint and profile, but never `options`, which may hold a key; nor for the report store."""
    secret = {"options": {"secret": "hunter2"}, "endpoint_url": "http://minio:9000"}
    public = load(storage=secret, out_storage=secret).public()
    assert "hunter2" not in str(public)
    assert public["storage"]["endpoint_url"] == public["out_storage"]["endpoint_url"] == "http://minio:9000"


def test_public_is_json_and_loads_again() -> None:
    """What run.json keeps of a configuration is a configuration."""
    config = load(source={"limit": 5, "include": ["*.jpg"]}, model={"labels": {"sfw": "neutral"}})
    assert ScanConfig.load(None, config.public()) == config


def test_the_report_store_is_not_reached_anonymously() -> None:
    """Anonymous reading and requester-pays concern the source; the report store shares endpoint, region and profile."""
    config = load(storage={"anonymous": True, "requester_pays": True, "endpoint_url": "http://x", "profile": "p"})
    assert config.store_options() == StorageConfig(endpoint_url="http://x", profile="p")
    own = StorageConfig(endpoint_url="http://y")
    assert load(out_storage={"endpoint_url": "http://y"}).store_options() == own


@pytest.mark.parametrize(
    "sections",
    [
        {"source": {"uris": ["other"]}},
        {"source": {"include": ["*.jpg"]}},
        {"source": {"exclude": ["*.jpg"]}},
        {"source": {"limit": 3}},
        {"source": {"truth": "none"}},
        {"read": {"max_bytes": 10}},
        {"decode": {"max_pixels": 10}},
        {"model": {"uri": "elsewhere"}},
        {"model": {"dtype": "float32"}},
        {"model": {"labels": {"sfw": "neutral"}}},
        {"policy": "binary"},
    ],
)
def test_the_deciding_settings_cover_what_decides_the_rows(sections: dict[str, Any]) -> None:
    """Another source, limit, model or policy is another fingerprint: such a run cannot be resumed with it."""
    assert load(**sections).deciding() != load().deciding()


@pytest.mark.parametrize(
    "sections",
    [
        {"engine": {"num_cpus": 2, "address": "auto", "seed": 7}},
        {"read": {"concurrency": 2, "timeout_s": 5, "attempts": 2}},
        {"report": {"max_error_rate": 0.5, "save_images": True}},
        {"storage": {"endpoint_url": "http://localhost:1"}},
        {"out": "elsewhere"},
    ],
)
def test_the_deciding_settings_do_not_cover_where_it_runs(sections: dict[str, Any]) -> None:
    """A dead run may be resumed on another cluster, with other concurrency or through another endpoint."""
    assert load(**sections).deciding() == load().deciding()


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    """`digest_of` is over canonical JSON: key order does not matter, list order does."""
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


CANARY = "hunter2"
LOCKED = f"ftp://user:{CANARY}@host/place"


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"source": {"uris": ["media", LOCKED]}}, r"source\.uris\.1"),
        ({"source": {"truth": LOCKED}}, r"source\.truth"),
        ({"out": LOCKED}, "out"),
        ({"storage": {"endpoint_url": f"http://:{CANARY}@minio:9000"}}, r"storage\.endpoint_url"),
        ({"out_storage": {"endpoint_url": f"http://u:p@{CANARY}@minio:9000"}}, r"out_storage\.endpoint_url"),
        ({"model": {"uri": LOCKED}}, r"model\.uri"),
        ({"policy": LOCKED}, "policy"),
    ],
)
def test_a_uri_with_a_password_is_refused(tmp_path: Path, sections: dict[str, Any], named: str) -> None:
    """Wherever a URI may stand, on the command line and in a file; the message names the place, not the password."""
    path = written(tmp_path, json.dumps(sections))
    for attempt in (lambda: load(**sections), lambda: ScanConfig.load(path, merge(MINIMAL, sections))):
        with pytest.raises(ConfigError, match=rf"\n  {named}: a URI must not hold a password") as error:
            attempt()
        assert CANARY not in str(error.value) and error.value.__cause__ is None


@pytest.mark.parametrize(
    "sections",
    [
        {"storage": {"options": CANARY}},
        {"storage": {"anonymous": CANARY}},
        {"storage": {"sse": CANARY}},
        {"storage": {"sse_kms_key_id": {"secret": CANARY}}},
        {"storage": {"secret": CANARY}},
        {"read": {"attempts": CANARY}},
        {"source": CANARY},
        {"engine": {"num_cpus": [CANARY]}},
    ],
)
def test_wrong_values_are_not_repeated(sections: dict[str, Any]) -> None:
    """A secret that got into the wrong place is not in the message that says so."""
    with pytest.raises(ConfigError) as error:
        load(**sections)
    assert CANARY not in str(error.value)
    with pytest.raises(ValidationError) as raw:
        ScanConfig.model_validate({**MINIMAL, **sections})
    assert CANARY not in str(raw.value)


@pytest.mark.parametrize(
    "text",
    [
        f"storage: {{options: {{secret: {CANARY}}}",
        f"storage:\n  options:\n    secret: *{CANARY}\n",
        f"storage:\n  options:\n    secret: !{CANARY} x\n",
        f"secret: {CANARY}\n\tx: y",
        f"secret: '{CANARY}",
        f"a: b: {CANARY}",
    ],
)
def test_broken_yaml_is_not_repeated(tmp_path: Path, text: str) -> None:
    """YAML that cannot be parsed is refused with line and column, without the words that stand there."""
    with pytest.raises(ConfigError, match=r"is not YAML: .*, in line \d+, column \d+") as error:
        ScanConfig.load(written(tmp_path, text), MINIMAL)
    assert CANARY not in str(error.value)


def test_options_are_in_no_representation() -> None:
    """Logs and tracebacks show configurations by `repr`; the options, which may hold keys, are not in it."""
    config = load(storage={"options": {"secret": CANARY}}, out_storage={"options": {"secret": CANARY}})
    assert CANARY not in repr(config) and CANARY not in str(config)


def test_signed_uris_are_written_down_without_their_signature() -> None:
    """What run.json and plan.json keep of a source is its name; a new signature is no other source."""
    signed = [load(source={"uris": [f"https://h/a.jpg?sig={tag}&v=1"]}) for tag in ("one", "two")]
    assert signed[0].public()["source"]["uris"] == ["https://h/a.jpg?sig=***&v=1"]
    assert signed[0].deciding() == signed[1].deciding()
    assert signed[0].source.uris == ("https://h/a.jpg?sig=one&v=1",)


def test_a_key_means_kms() -> None:
    """A KMS key asks for aws:kms by itself; with AES256, which takes none, it is a mistake."""
    assert load(storage={"sse_kms_key_id": "alias/k"}).storage.sse == "aws:kms"
    assert load(storage={"sse_kms_key_id": "k", "sse": "aws:kms:dsse"}).storage.sse == "aws:kms:dsse"
    assert load(storage={"sse": "AES256"}).storage.sse_kms_key_id is None
    assert load(storage={"sse_kms_key_id": "alias/k"}).store_options().sse == "aws:kms"
    with pytest.raises(ConfigError, match="\n  storage: sse_kms_key_id is for sse aws:kms"):
        load(storage={"sse": "AES256", "sse_kms_key_id": "alias/k"})


def test_banks_by_name_or_in_a_list() -> None:
    """A mapping is as good as a list; a name stands once; what is given lies over the file, bank by bank."""
    needed = {"source": {"uris": ["/m"]}, "out": "o"}
    bank = {"uri": "x.csv", "kind": "illegal"}
    by_name = ScanConfig.of({**needed, "banks": {"csam": bank}})
    assert by_name.banks == ScanConfig.of({**needed, "banks": [{"name": "csam", **bank}]}).banks
    assert (by_name.banks[0].distance, by_name.banks[0].quality) == (31, 50)
    with pytest.raises(ConfigError, match="two banks are called 'a'"):
        ScanConfig.of({**needed, "banks": [{"name": "a", "uri": "x"}, {"name": "a", "uri": "y"}]})
    with pytest.raises(ConfigError, match=r"banks\.0\.uri: a URI must not hold a password"):
        ScanConfig.of({**needed, "banks": {"a": {"uri": "https://u:p@h/x.csv"}}})


def test_banks_of_a_file_and_of_options(tmp_path: Path) -> None:
    """Options lie over the file; there may be none."""
    path = tmp_path / "c.yaml"
    path.write_text("banks: {a: {uri: a.csv, distance: 10}, b: {uri: b.csv}}")
    found = parts_of(str(path), {"banks": {"a": {"uri": "other.csv"}, "c": {"uri": "c.csv"}}}).banks
    assert [(bank.name, bank.uri, bank.distance) for bank in found] == [
        ("a", "other.csv", 10),
        ("b", "b.csv", 31),
        ("c", "c.csv", 31),
    ]
    assert parts_of(None, {}).banks == ()


@pytest.mark.parametrize("name", SIGNAL_GROUPS)
def test_no_detector_speaks_for_others(name: str) -> None:
    """A detector's name must not be what the prefilter's signal, or those of a file's making, begin with: one of two
    signals of a name would be lost."""
    with pytest.raises(ConfigError, match="must not be called"):
        ScanConfig.load(None, {"source": {"uris": ["x"]}, "out": "y", "detectors": {name: {}}})


def test_all_groups_of_signals_are_known() -> None:
    """Whatever a file's making is told by is among the names that no detector may have."""
    told = re.findall(
        r"^    (?:[a-z0-9]+\.<term>, )?([a-z0-9]+)\.",
        f"{signals.__doc__}{salvage.__doc__}{colours.__doc__}{views.__doc__}{screenshots.__doc__}{enclosed.__doc__}",
        re.MULTILINE,
    )
    assert len(told) > 10 and {*told, "boxes", "c2pa", "gate", "lines", "prefilter", "vectors"} == set(SIGNAL_GROUPS)
