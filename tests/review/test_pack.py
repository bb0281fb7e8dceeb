"""What is in a pack: which rows, which covers, which links; and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, NsfwscanError
from nsfwscan.review import pack as packing
from nsfwscan.review.covers import View
from nsfwscan.review.evidence import minimal, parts_of_views
from nsfwscan.review.originals import NoOriginals, Presigned, Template, origin_of
from nsfwscan.review.ranking import ranked
from nsfwscan.review.selection import rows_where
from nsfwscan.review.words import facts_of, line_of
from nsfwscan.schema import DETECTION_SCHEMA
from nsfwscan.storage.store import to_json
from tests.review.pages import of_file, packed, picture, store
from tests.review.stores import committed, row
from tests.s3.servers import S3Endpoint


def told(page: Path) -> dict[str, Any]:
    """What a page knows."""
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.partition('id="pack">')[2].partition("</script>")[0])
    return found


def test_a_pack_says_what_it_has(tmp_path: Path) -> None:
    """Items, contents, covers, why others have none, and what is left out; objects that are gone, or have other bytes than
    the scan saw, have no cover."""
    made = store(tmp_path)
    (made.media / "moving.gif").write_bytes((made.media / "one.png").read_bytes())
    done = packed(made, tmp_path / "out", NoOriginals(), most=6)
    assert (done.items, done.contents, done.left) == (6, 9, 1)
    assert done.problems == {
        "hidden by the policy": 1, "it has changed since the scan": 1, "known illegal content": 2, "not_found": 1
    }  # fmt: skip
    items = told(tmp_path / "out" / "index.html")["items"]
    why = {Path(item["members"][0]["uri"]).name: item["no_cover"] for item in items}
    assert why["moving.gif"] == "it has changed since the scan" and why["gone.png"].startswith("not_found: ")
    assert [item["contents"] for item in items][:2] == [2, 3]
    assert all(member["original"] is None for item in items for member in item["members"])
    again = packed(made, tmp_path / "again", NoOriginals(), most=6)
    assert told(Path(again.place))["pack"] == told(tmp_path / "out" / "index.html")["pack"]
    other = packed(made, tmp_path / "other", NoOriginals(), covers=False, reviewer="Ben")
    assert told(Path(other.place))["pack"] != told(Path(again.place))["pack"] and other.covers == 0


def test_the_page_allows_its_own_script_and_the_hosts_of_its_links(tmp_path: Path) -> None:
    """No `unsafe-inline`, no host that is not linked to."""
    made = store(tmp_path)
    policy = {}
    for name, originals in (("none", NoOriginals()), ("linked", Template("https://m.example:8443/{sha256}?x={uri}"))):
        packed(made, tmp_path / name, originals, covers=False)
        text = (tmp_path / name / "index.html").read_text(encoding="utf-8")
        policy[name] = text.partition('Policy" content="')[2].partition('"')[0].replace("&#39;", "'")
    assert "unsafe" not in "".join(policy.values()) and "default-src 'none'" in policy["none"]
    assert "img-src data:;" in policy["none"] and "media-src 'none'" in policy["none"]
    assert "img-src data: https://m.example:8443;" in policy["linked"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("media.example/{key}", "must begin with http"),
        ("javascript:alert(1)//{key}", "must begin with http"),
        ("https://{bucket}.example/x", "a host without a field"),
        ("https://m.example;script-src *{key}", "a host without a field"),
        ("https://m.example/{name}", "there is no field {name}"),
        ("https://m.example/x", "name one of"),
        ("https://u:p@m.example/{key}", "password"),
    ],
)
def test_templates_that_are_none(template: str, said: str) -> None:
    """Nothing but a web address of one host with a field in it can stand in the page's policy."""
    with pytest.raises(ConfigError, match=said):
        Template(template)


def test_links_of_a_template() -> None:
    """Values are encoded; a key that leads a browser upwards has no link."""
    link = Template("https://m.example/{bucket}/{key}?u={uri}").link
    found = link({"uri": "s3://b/a b/ü?#%2e.png"})
    assert found == "https://m.example/b/a%20b/%C3%BC%3F%23%252e.png?u=s3%3A%2F%2Fb%2Fa%20b%2F%C3%BC%3F%23%252e.png"
    for key in ("../x.png", "a/../../x.png", "a/./x.png", ".."):
        assert link({"uri": f"s3://b/{key}"}) is None
    assert Template("https://m.example/{sha256}").link({"uri": "/a", "sha256": None}) is None
    assert origin_of("https://[::1]:8443/x") == "https://[::1]:8443" and origin_of("//m.example/x") is None


def test_minimal_evidence() -> None:
    """The worst views, within half of the worst one, six at most, in their order; without scores, the first six."""
    views = [View(index, index / 10, "data:") for index in range(9)]
    assert [v.index for v in minimal(views, {0: 0.1, 3: 0.9, 5: 0.5, 8: 0.44})] == [3, 5]
    assert [v.index for v in minimal(views, dict.fromkeys(range(9), 0.9))] == [0, 1, 2, 3, 4, 5]
    assert [v.index for v in minimal(views, {})] == [0, 1, 2, 3, 4, 5]


def test_parts_come_from_detections(tmp_path: Path) -> None:
    """The boxes of the items' views, and of no other object."""
    run = committed(tmp_path, [row("/a")])
    box = {"detector": "nudity", "score": 0.9, "x": 0.25, "y": 0.5, "w": 0.125, "h": 0.25}
    rows = [{"uri": "/a", "view": 0, "label": "torso", **box}, {"uri": "/b", "view": 0, "label": "face", **box}]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=DETECTION_SCHEMA), buffer)
    data, record = buffer.getvalue(), run.record().as_json()
    known = {
        "path": "detections/part-0.parquet",
        "rows": 2,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    run.folder.write(known["path"], data)
    run.folder.write("run.json", to_json({**record, "files": [*record["files"], known]}))
    torso = {"label": "torso", "box": {"left": 0.25, "top": 0.5, "width": 0.125, "height": 0.25}}
    assert parts_of_views(run, ["/a", "/c"]) == {"/a": {0: [torso]}}


def test_parts_of_each_content_of_a_cluster_are_in_the_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the item's own alone; of known illegal content there are none."""
    monkeypatch.setattr(packing, "parts_of_views", lambda run, uris: {uri: {0: [{"label": uri}]} for uri in uris})
    packed(store(tmp_path), tmp_path / "out", NoOriginals(), covers=False)
    items = told(tmp_path / "out" / "index.html")["items"]
    assert max(len(item["members"]) for item in items) > 1
    for item in items:
        labels = [[part["label"] for part in member["parts"]] for member in item["members"]]
        illegal = "illegal content" in str(item["no_cover"])
        assert labels == [[] if illegal else [member["uri"]] for member in item["members"]]


LEADS_AWAY = [{"name": "link.blocked", "value": 1.0}, {"name": "link.codes", "value": 1.0}]


HARMLESS = [
    {"name": name, "value": value}
    for name, value in {
        "gore.SFW": 0.93, "gore.NSFL": 0.03, "kinds.Neutral": 0.9, "nudity.FACE_FEMALE": 0.8, "age.adult": 0.99,
        "text.chars": 120.0, "text.lines": 4.0, "text.solicitation": 0.15, "text.solicitation.age": 1.0,
        "text.profanity": 2.0, "link.codes": 1.0, "link.blocked": 0.0, "boxes.nudity": 3.0, "gate.text": 1.0,
        "lines.text": 4.0, "screenshot": 0.004, "screenshot.chat": 0.97, "decode.complete": 1.0, "c2pa.invalid": 1.0, "file.after_end": 900.0,
    }.items()
]  # fmt: skip


def test_the_signals_of_an_item(tmp_path: Path) -> None:
    """What asks for attention, in its unit: no label that means nothing is there, no count of letters or boxes."""
    with ranked(committed(tmp_path, [row("/a", nsfw_score=0.04, signals=HARMLESS)])) as found:
        facts = dict(facts_of(next(found.items)))
    assert facts["signals"] == [
        "text.solicitation 15%, gore.NSFL 3%, text.profanity 2, screenshot.chat 97%, c2pa.invalid, file.after_end 900"
    ]
    assert facts["text"] == ["hints: text.solicitation.age"]


def test_the_line_on_an_item(tmp_path: Path) -> None:
    """Rule, strongest detector or match, what became of it before, places: and no more."""
    committed(tmp_path, [row("/a", sha256="1", decision="block", rule="x")], "mon", day=1)
    scores = {"score_porn": 0.9, "score_sexy": 0.05, "nsfw_score": 0.95}
    rows = [
        row("/a", sha256="1", rule="explicit", cluster="c", cluster_size=2, cluster_places=14, **scores),
        row(
            "/b",
            rule="gore",
            signals=[{"name": "gore.blood", "value": 0.99}, {"name": "view.max", "value": 1}],
            **scores,
        ),
        row("/c", rule="known", match_bank="memes", match_kind="block", match_distance=3),
        row("/d", rule="unreadable", status="decode_error"),
        row("/f", rule="link", link_host="evil.example", signals=LEADS_AWAY, nsfw_score=0.49),
        row("/g", rule="explicit", link_host="evil.example", signals=LEADS_AWAY, nsfw_score=0.5),
        row("/h", rule="spam", nsfw_score=0.0099),
        row("/i", rule="spam", nsfw_score=0.04, signals=HARMLESS),
        row("/e", match_bank="known", match_kind="illegal"),
    ]
    with ranked(committed(tmp_path, rows)) as found:
        assert {item.row["uri"]: line_of(item) for item in found.items} == {
            "/a": "explicit · porn 90% · blocked in 1 earlier run · in 14 places",
            "/b": "gore · gore.blood 99%",
            "/c": "known · matches memes, 3 bits off",
            "/d": "unreadable · decode_error",
            "/f": "link · a code leads to evil.example",
            "/g": "explicit · nsfw 50%",
            "/h": "spam",
            "/i": "spam · text.solicitation 15%",
            "/e": "known illegal content · not shown",
        }


def test_a_cell_of_megabytes_is_cut(tmp_path: Path) -> None:
    """A page stays as small as its items, whatever the user's own table or an error says."""
    run = committed(tmp_path, [row("/a", error="e" * 9_000)])
    with ranked(run) as found:
        facts = dict(facts_of(next(found.items)._replace(context=json.dumps({"note": "x" * 1_000_000}))))
    assert facts["your note"] == ["x" * 5_000 + " … (995,000 more characters)"] and len(facts["error"][0]) < 5_100


def test_rows_for_which_a_condition_is_true(tmp_path: Path) -> None:
    """Over all columns, decisions and signals too; what is no condition is refused before anything is read."""
    rows = [
        row("/a", nsfw_score=0.9),
        row("/b", nsfw_score=0.2, queue=None, decision="allow", signals=[{"name": "ai.made", "value": 0.8}]),
        row("/c"),
    ]
    run = committed(tmp_path, rows)
    for when, uris in (
        ("decision = 'allow' AND signals['ai.made'] > 0.5", ["/b"]),
        ("nsfw_score < 1 -- all that are scored", ["/a", "/b"]),
        ("false", []),
    ):
        with ranked(run, choice=rows_where(when)) as found:
            assert sorted(item.row["uri"] for item in found.items) == uris
    for wrong in (
        "nsfw_scor > 1",
        "nsfw_score",
        "(SELECT true FROM read_csv('/etc/passwd'))",
        "count(*) > 1",
    ):
        with pytest.raises(ConfigError, match="--where"):
            rows_where(wrong)


def test_the_command(tmp_path: Path) -> None:
    """A page of a queue, of a condition, of what is wrong; messages, and nothing written, for what cannot be meant."""
    made = store(tmp_path)
    reports, out = str(tmp_path / "reports"), str(tmp_path / "out")
    done = CliRunner().invoke(main, ["review", reports, "--queue", "adult", "--out", out, "--limit", "2"])
    assert done.exit_code == 0 and "left    5 less urgent items" in done.output
    assert told(tmp_path / "out" / "index.html")["items"][0]["line"] == "known illegal content · not shown"
    where = ["review", reports, "--where", "shield = 'hidden'", "--no-covers", "--out", str(tmp_path / "w")]
    assert CliRunner().invoke(main, where).exit_code == 0
    assert len(told(tmp_path / "w" / "index.html")["items"]) == 2
    for wrong in (
        ["--queue", "adlut"],
        ["--queue", "adult", "--false-positives"],
        ["--originals", "--no-covers"],
        ["--originals", "--presign", "8h"],
        ["--tampering"],
        ["--tampering", "--url-template", "https://m.example/{key}", "--no-covers"],
        ["--presign", "8 days"],
        ["--presign", "200h"],
        ["--url-template", "x"],
        ["--where", "nonsense"],
        ["--out", "https://example.org/x"],
    ):
        done = CliRunner().invoke(main, ["review", reports, "--out", str(tmp_path / "none"), *wrong])
        assert done.exit_code == 2 and "Traceback" not in done.output, (wrong, done.output)
    assert not (tmp_path / "none").exists() and made


@pytest.mark.parametrize("how", [["--originals"], ["--url-template", "https://m.example/{key}"]])
def test_maps_of_tampering_go_with_originals(tmp_path: Path, how: list[str]) -> None:
    """Where they are asked for, each picture has one beside its original; what is hidden or illegal has none."""
    made = store(tmp_path)
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["review", str(tmp_path / "reports"), "--tampering", *how, "--out", str(out)])
    assert done.exit_code == 0, done.output
    items = {Path(item["members"][0]["uri"]).stem: item for item in told(out / "index.html")["items"]}
    maps = {name: [view["maps"] for view in item["views"]] for name, item in items.items()}
    sha256 = hashlib.sha256((made.media / "plain.png").read_bytes()).hexdigest()
    assert maps["plain"] == [{"error_levels": f"originals/{sha256}-error_levels.jpg"}]
    assert maps["moving"] == [{}] * 4 and maps["hidden"] == [{}] and maps["illegal"] == []
    kept = {path.name.partition("-")[0] for path in (out / "originals").glob("*-error_levels.jpg")}
    shown = [item["members"][0]["sha256"] for name, item in items.items() if any(maps[name])]
    assert kept == set(shown) and "img-src data: &#39;self&#39;" in (out / "index.html").read_text(encoding="utf-8")
    pictures = [path for path in (out / "originals").iterdir() if "error_levels" not in path.name]
    assert bool(pictures) == (how == ["--originals"])


def test_a_pack_on_s3(moto: S3Endpoint, tmp_path: Path) -> None:
    """Originals and page on S3, with links that open the object for a time, or with pictures beside the page."""
    client, storage = boto3.client("s3"), StorageConfig(endpoint_url=moto.endpoint_url)
    client.create_bucket(Bucket="packs")
    file = picture(tmp_path / "a.png", 1)
    client.upload_file(str(file), "packs", "media/a.png")
    committed("s3://packs/reports", [{**of_file(file), "uri": "s3://packs/media/a.png"}], storage=storage)
    for how, out in ((["--presign", "1h"], "s3://packs/one"), (["--originals"], "s3://packs/two/")):
        done = CliRunner().invoke(main, ["review", "s3://packs/reports", "--out", out, *how])
        assert done.exit_code == 0 and "covers  1" in done.output, done.output
    names = {
        found["Key"] for found in client.list_objects_v2(Bucket="packs")["Contents"] if "reports" not in found["Key"]
    }
    picture_name = next(name for name in names if name.startswith("two/originals/"))
    assert names == {"media/a.png", "one/index.html", "two/index.html", picture_name}
    types = {
        name: client.head_object(Bucket="packs", Key=name)["ContentType"] for name in ("one/index.html", picture_name)
    }
    assert types == {"one/index.html": "text/html", picture_name: "image/jpeg"}  # or a browser would download the page
    client.download_file("packs", "one/index.html", str(tmp_path / "one.html"))
    [item] = told(tmp_path / "one.html")["items"]
    link = item["members"][0]["original"]
    assert (
        link.startswith(moto.endpoint_url)
        and "X-Amz-Expires=3600" in link
        and "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link
        and f"img-src data: {moto.endpoint_url};" in (tmp_path / "one.html").read_text()
    )
    assert Presigned(storage, 60).link({"uri": "/a.png"}) is None
    with pytest.raises(NsfwscanError, match="seven days"):
        Presigned(storage, 8 * 86_400)
