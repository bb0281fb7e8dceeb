"""Text from picture to report: it is read, counted, carried over, forgotten, left out or encrypted as asked."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.reports.store_query import query_store
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.schema import LINE_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.texts import alphabet, ocr
from nsfwscan.texts.lines import Line, Pixels, Reader
from nsfwscan.texts.sealing import make_key
from nsfwscan.workflows.forget import forget
from nsfwscan.workflows.read_text import read_text_of
from nsfwscan.workflows.scan import ScanResult
from tests.s3.servers import S3Endpoint
from tests.texts.pages import page

pytest.importorskip("py3langid")
pytest.importorskip("glin_profanity")


class Counting(ocr.Ocr):
    """Stands in for PP-OCR: a line for each dark row of a picture, which says how wide and high it is."""

    def open(self) -> None:
        pass

    def read(self, pixels: Pixels) -> list[Line]:
        height, width, _ = pixels.shape
        text = f"this picture is {width} by {height} pixels"
        return [Line("line", text, 0.9, (0.1, 0.2, 0.3, 0.4))] if pixels.min() < 64 else []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without weights."""
    monkeypatch.setattr(ocr, "Ocr", Counting)
    monkeypatch.setattr(ocr, "digest", lambda: "0" * 64)
    monkeypatch.setattr(ocr, "weights", lambda: ())
    monkeypatch.setattr(alphabet, "letters", lambda: frozenset(map(chr, range(33, 127))))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page, its copy, an empty one, two pages of two sizes, and a file that is no image."""
    folder = tmp_path_factory.mktemp("media")
    page("Hello").save(folder / "page.png")
    shutil.copy(folder / "page.png", folder / "copy.png")
    page().save(folder / "empty.png")
    page("one").save(folder / "pages.tiff", save_all=True, append_images=[page("two", size=(200, 100))])
    (folder / "notes.txt").write_text("no image")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


def night(media: Path, out: Path, run_id: str, **further: Any) -> ScanResult:
    given = {"uri": "embedded:text", **further.pop("reader", {})}
    return nsfwscan.scan(media, out, run_id=run_id, detectors={"text": given}, **further)


def read(out: Path, run_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Rows of the report, and of text, by the names of their objects."""
    folder = out / "runs" / run_id
    rows = [row for path in folder.glob("report/*.parquet") for row in pq.read_table(path).to_pylist()]
    lines: dict[str, list[dict[str, Any]]] = {}
    for path in folder.glob("text/*.parquet"):
        assert path.stat().st_mode & 0o777 == 0o600
        table = pq.read_table(path)
        assert table.schema.equals(LINE_SCHEMA)
        for row in table.to_pylist():
            lines.setdefault(os.path.basename(row.pop("uri")), []).append(row)
    said = {os.path.basename(row["uri"]): {**row, "signals": signals_of_row(row["signals"])} for row in rows}
    return said, lines


def store_of(out: Path) -> Store:
    return Store.at(str(out), StorageConfig())


def findings(out: Path, run_id: str) -> list[str]:
    return [one.text for one in verify(Run(store_of(out), run_id))]


@pytest.mark.usefixtures("stand_in")
def test_lines_have_their_rows(media: Path, tmp_path: Path) -> None:
    """Each with its view, as large as it is; the row has what they come to. What was read without a find has zeros, what
    was not read has no such signal; a second night carries all of it over."""
    result = night(media, tmp_path, "1")
    rows, lines = read(tmp_path, "1")
    assert [line["text"] for line in lines["pages.tiff"]] == [
        "this picture is 640 by 320 pixels", "this picture is 200 by 100 pixels",
    ]  # fmt: skip
    [line] = lines["page.png"]
    assert line | {"x": 0, "score": 0} == {
        "view": 0, "detector": "text", "line": 0, "kind": "line", "text": "this picture is 640 by 320 pixels",
        "sealed": None, "key": None, "score": 0, "x": 0, "y": line["y"], "w": line["w"], "h": line["h"],
    }  # fmt: skip
    assert {name: row["signals"].get("text.chars") for name, row in rows.items()} == {
        "page.png": 27, "copy.png": 27, "empty.png": 0, "pages.tiff": 54, "notes.txt": None,
    }  # fmt: skip
    assert rows["page.png"]["text_language"] == "en" and rows["empty.png"]["text_language"] is None
    assert rows["page.png"]["signals"]["text.profanity"] == 0
    assert result.record.text is not None and (result.record.text.kept, result.record.text.key) == (True, None)
    said = dict(describe_effects(result.record))["detector"]
    assert said == "text looked at 4 of 5, not at 1 unreadable; 4 lines, in text/"
    assert findings(tmp_path, "1") == []
    found = query_store(store_of(tmp_path), "SELECT count(*) AS lines, max(run_id) AS run FROM text").to_pylist()
    assert found == [{"lines": 4, "run": "1"}]

    again = night(media, tmp_path, "2")
    assert again.record.plan.actions["carried"] == 5 and read(tmp_path, "2")[1] == lines
    assert findings(tmp_path, "2") == []
    for path in (tmp_path / "runs" / "1" / "text").iterdir():
        path.unlink()
    assert any("text/part-" in text and "absent" in text for text in findings(tmp_path, "1"))


@pytest.mark.usefixtures("stand_in")
def test_text_can_be_left_out(media: Path, tmp_path: Path) -> None:
    """Then only what it comes to is written, in the run and in staging, and `text read` says so; a night that keeps it
    again reads again."""
    result = night(media, tmp_path, "1", text={"keep": False})
    asked = CliRunner().invoke(main, ["text", "read", str(tmp_path)])
    assert asked.exit_code == 0 and "run 1 has no text: it was left out (--no-text)" in asked.stderr
    rows, lines = read(tmp_path, "1")
    assert not lines and not (tmp_path / "runs" / "1" / "text").exists()
    assert rows["page.png"]["signals"]["text.chars"] == 27 and rows["page.png"]["text_language"] == "en"
    assert "lines.text" not in rows["page.png"]["signals"] and findings(tmp_path, "1") == []
    assert result.record.text is not None and not result.record.text.kept
    assert night(media, tmp_path, "2").record.plan.actions.get("carried", 0) < 5
    assert read(tmp_path, "2")[1]["page.png"]


@pytest.mark.usefixtures("stand_in")
def test_text_can_be_encrypted(media: Path, tmp_path: Path) -> None:
    """Nothing of it stands in a file; it is counted, verified and carried over without the key, and read with it."""
    key_id = make_key(tmp_path / "private.pem", tmp_path / "public.pem")
    out = tmp_path / "out"
    result = night(media, out, "1", text={"key": str(tmp_path / "public.pem")})
    night(media, out, "2", text={"key": str(tmp_path / "public.pem")})
    for run_id in ("1", "2"):
        assert findings(out, run_id) == []
        [line] = read(out, run_id)[1]["page.png"]
        assert line["text"] is None and line["key"] == key_id and b"picture" not in line["sealed"]
    assert result.record.text is not None and result.record.text.key == key_id
    assert not any(b"picture is" in path.read_bytes() for path in out.rglob("*") if path.is_file())

    [uri] = {
        row["uri"]
        for row in read_text_of(Run(store_of(out), "2"), None, [str(tmp_path / "private.pem")])
        if "page.png" in row["uri"]
    }
    shown = CliRunner().invoke(
        main, ["text", "read", str(out), "--uri", uri, "--key", str(tmp_path / "private.pem"), "--json"]
    )
    assert shown.exit_code == 0 and json.loads(shown.output)["text"] == "this picture is 640 by 320 pixels"
    refused = CliRunner().invoke(main, ["text", "read", str(out)])
    assert refused.exit_code == 2 and not refused.stdout and key_id in refused.stderr
    with pytest.raises(ConfigError, match="is the private key"):
        night(media, out, "3", text={"key": str(tmp_path / "private.pem")})


@pytest.mark.long
@pytest.mark.usefixtures("stand_in")
def test_text_of_a_bucket(moto: S3Endpoint, media: Path, tmp_path: Path) -> None:
    """Objects, report and key on S3: pictures are read again there, nothing of their text stands in the bucket as it is, a
    second night carries it over, and it is read with the private key; a night without text has no such folder."""
    make_key(tmp_path / "private.pem", tmp_path / "public.pem")
    client = boto3.client("s3")
    client.create_bucket(Bucket="texts")
    for path in (*media.iterdir(), tmp_path / "public.pem"):
        client.upload_file(str(path), "texts", f"media/{path.name}" if path.parent == media else "keys/text.pub")
    for run_id, text in (("1", {"key": "s3://texts/keys/text.pub"}), ("2", {"key": "s3://texts/keys/text.pub"})):
        found = nsfwscan.scan(
            "s3://texts/media/",
            "s3://texts/out",
            run_id=run_id,
            text=text,
            detectors={"text": {"uri": "embedded:text"}},
        )
    assert (found.record.balance.carried, (found.record.detectors or ())[0].lines) == (5, 4)
    store = Store.at("s3://texts/out", StorageConfig())
    assert [one.text for one in verify(Run(store, "2"))] == []
    lines = [row["text"] for row in read_text_of(Run(store, "2"), None, [str(tmp_path / "private.pem")])]
    assert sorted(lines)[0] == "this picture is 200 by 100 pixels" and len(lines) == 4
    nsfwscan.scan(
        "s3://texts/media/",
        "s3://texts/out",
        run_id="3",
        text={"keep": False},
        detectors={"text": {"uri": "embedded:text"}},
    )
    keys = [found["Key"] for found in client.list_objects_v2(Bucket="texts", Prefix="out/")["Contents"]]
    bodies = {key: client.get_object(Bucket="texts", Key=key)["Body"].read() for key in keys}
    assert {key.split("/")[2] for key in keys if "/text/" in key} == {"1", "2"}
    assert not [key for key, body in bodies.items() if b"this picture is" in body]


@pytest.mark.usefixtures("stand_in")
def test_only_what_the_gate_lets_through_is_read(media: Path, tmp_path: Path) -> None:
    """The rest is unknown, and counted; a content is read once, whatever its copies."""
    result = night(media, tmp_path, "1", reader={"when": "format = 'TIFF'", "shadow": 0.0})
    rows, lines = read(tmp_path, "1")
    assert list(lines) == ["pages.tiff"] and "text.chars" not in rows["page.png"]["signals"]
    [found] = result.record.detectors or ()
    assert (found.looked_at, found.not_looked_at) == (1, {"gate": 3, "unreadable": 1})


@pytest.mark.usefixtures("stand_in")
def test_what_is_gone_meanwhile_is_unknown(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that has other bytes when it is read again has no text; nor has one that its reader fails on."""
    shutil.copytree(media, tmp_path / "media")
    opened = Counting.open

    def change(reader: Reader) -> None:
        opened(reader)  # type: ignore[arg-type]
        monkeypatch.setattr(Counting, "read", _failing)

    def _failing(self: Counting, pixels: Pixels) -> list[Line]:
        (tmp_path / "media" / "pages.tiff").write_bytes(b"other")
        raise ValueError("no")

    monkeypatch.setattr(Counting, "open", change)
    result = night(tmp_path / "media", tmp_path / "out", "1")
    assert result.record.detectors is not None
    [found] = result.record.detectors
    assert (found.looked_at, found.not_looked_at) == (0, {"no_score": 4, "unreadable": 1})
    assert findings(tmp_path / "out", "1") == []


@pytest.mark.usefixtures("stand_in")
def test_a_forgotten_object_has_no_text(media: Path, tmp_path: Path) -> None:
    """Its lines stay as tombstones, without a word, and the store is sound."""
    night(media, tmp_path, "1")
    forget(store_of(tmp_path), "me", "asked", uri=str(media / "page.png"))
    assert all("written anew since" in text for text in findings(tmp_path, "1"))
    lines = read(tmp_path, "1")[1]
    [gone] = [line for name, some in lines.items() if "." not in name for line in some]
    assert gone["text"] is None and gone["sealed"] is None and gone["score"] is None
    assert len(list(read_text_of(Run(store_of(tmp_path), "1"), None, []))) == 3


@pytest.mark.usefixtures("stand_in")
def test_a_single_image_has_its_lines(media: Path) -> None:
    """`classify` gives them, of a path or of bytes, and writes nothing."""
    detectors = {"text": {"uri": "embedded:text"}}
    for given in (str(media / "page.png"), (media / "page.png").read_bytes()):
        [verdict] = nsfwscan.classify(given, detectors=detectors)
        assert [line["text"] for line in verdict.lines] == ["this picture is 640 by 320 pixels"]


def test_a_reader_is_no_model(media: Path, tmp_path: Path) -> None:
    """It is refused as `--model`, and so is a key for text that is left out."""
    pytest.importorskip("rapidocr")
    with pytest.raises(ModelError, match="embedded:text gives lines"):
        nsfwscan.scan(media, tmp_path, model={"uri": "embedded:text"})
    with pytest.raises(ConfigError, match=r"text\.keep leaves out"):
        nsfwscan.scan(media, tmp_path, text={"keep": False, "key": "public.pem"})


@pytest.mark.long
def test_real_pictures(tmp_path: Path) -> None:
    """PP-OCR reads a page, in windows where it is long, and the command line finds it."""
    pytest.importorskip("rapidocr")
    (tmp_path / "media").mkdir()
    page("Wie alt bist du eigentlich?", "I am 13 and you").save(tmp_path / "media" / "page.png")
    page(*(f"line number {number}" for number in range(40)), size=(500, 2500)).save(tmp_path / "media" / "strip.png")
    command = ["scan", str(tmp_path / "media"), "--out", str(tmp_path / "out"), "--run-id", "1", "--detector", "text"]
    assert CliRunner().invoke(main, command).exit_code == 0
    _, lines = read(tmp_path / "out", "1")
    assert [line["text"] for line in lines["page.png"]] == ["Wie alt bist du eigentlich?", "I am 13 and you"]
    assert [line["text"] for line in lines["strip.png"]] == [f"line number {number}" for number in range(40)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of text, small and untrained, with a tokenizer of its own."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "this", "picture", "is", "by", "pixels"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=32, id2label={0: "calm", 1: "toxic"}, label2id={"calm": 0, "toxic": 1},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("stand_in")
def test_text_is_searched_and_judged(media: Path, judge: Path, tmp_path: Path) -> None:
    """By a list of patterns, which the record names with its digest, and by a classifier of the user's, which sees only
    what was read; another list makes other rows."""
    pytest.importorskip("re2")
    (tmp_path / "own.yaml").write_text(
        "name: own\nversion: 7\nlanguage: en\nowner: me\ntopics:\n"
        "  sizes: {combine: [0.5, 1], groups: {number: ['[0-9]+ by'], word: ['pixel']}}\n"
    )
    further = {"toxicity": {"uri": str(judge)}}
    settings = {
        "text": {"patterns": [str(tmp_path / "own.yaml")]},
        "detectors": {"text": {"uri": "embedded:text"}, **further},
    }
    out = tmp_path / "out"
    result = nsfwscan.scan(media, out, run_id="1", **settings)
    rows, _ = read(out, "1")
    signals = rows["page.png"]["signals"]
    assert (signals["text.sizes"], signals["text.sizes.number"]) == (1, 1) and rows["empty.png"]["signals"][
        "text.sizes"
    ] == 0
    assert signals["toxicity.calm"] + signals["toxicity.toxic"] == pytest.approx(1)
    assert signals["toxicity.toxic"] == rows["copy.png"]["signals"]["toxicity.toxic"]
    assert "toxicity.toxic" not in rows["empty.png"]["signals"]
    assert result.record.text is not None
    [named] = result.record.text.patterns
    assert (named.name, named.version, named.owner) == ("own", "7", "me")
    assert findings(out, "1") == []
    assert nsfwscan.scan(media, out, run_id="2", **settings).record.plan.actions["carried"] == 5
    (tmp_path / "own.yaml").write_text((tmp_path / "own.yaml").read_text().replace("version: 7", "version: 8"))
    assert nsfwscan.scan(media, out, run_id="3", **settings).record.plan.actions.get("carried", 0) < 5


@pytest.mark.usefixtures("stand_in")
def test_a_classifier_of_text_needs_text(media: Path, judge: Path, tmp_path: Path) -> None:
    """Where no detector before it reads any, or its tokenizer is missing, or it is named as the model, nothing starts."""
    with pytest.raises(ModelError, match=r"none before it reads any: name one \(--detector text\)"):
        nsfwscan.scan(media, tmp_path / "out", detectors={"toxicity": {"uri": str(judge)}})
    with pytest.raises(ModelError, match="classifies text, and no images: name it as a detector"):
        nsfwscan.scan(media, tmp_path / "out", model={"uri": str(judge)})
    shutil.copytree(judge, tmp_path / "judge")
    for path in tmp_path.glob("judge/*"):
        if path.name.startswith(("tokenizer", "vocab", "special")):
            path.unlink()
    detectors = {"text": {"uri": "embedded:text"}, "toxicity": {"uri": str(tmp_path / "judge")}}
    with pytest.raises(ModelError, match="no tokenizer"):
        nsfwscan.scan(media, tmp_path / "out", detectors=detectors)


def test_codes_lead_to_hosts(tmp_path: Path) -> None:
    """A scan finds them by the command line; what they hold is text like other text."""
    zxingcpp = pytest.importorskip("zxingcpp")
    (tmp_path / "media").mkdir()
    code = zxingcpp.create_barcode("https://user@sub.evil.example/ticket/123", zxingcpp.BarcodeFormat.QRCode)
    picture = page(size=(400, 400))
    picture.paste(Image.fromarray(np.asarray(code.to_image(scale=5))), (60, 60))
    picture.save(tmp_path / "media" / "code.png")
    page().save(tmp_path / "media" / "none.png")
    (tmp_path / "bad.txt").write_text("evil.example")
    command = ["scan", str(tmp_path / "media"), "--out", str(tmp_path / "out"), "--run-id", "1", "--detector", "link"]
    assert CliRunner().invoke(main, [*command, "--block-hosts", str(tmp_path / "bad.txt")]).exit_code == 0
    rows, lines = read(tmp_path / "out", "1")
    assert rows["code.png"]["link_host"] == "sub.evil.example" and rows["none.png"]["link_host"] is None
    signals = rows["code.png"]["signals"]
    assert (signals["link.codes"], signals["link.blocked"], signals["link.odd"]) == (1, 1, 1)
    assert [(line["kind"], line["text"]) for line in lines["code.png"]] == [("QRCode", code.text)]
    record = Run(store_of(tmp_path / "out"), "1").record()
    assert record.text is not None and record.text.hosts["block"].hosts == 1
