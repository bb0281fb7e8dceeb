"""The page in a browser: nothing is loaded before the second step, decisions last, and nothing attacks it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from nsfwscan.config import StorageConfig
from nsfwscan.review import pack as packing
from nsfwscan.review.originals import Template
from nsfwscan.review.pack import PackRequest
from nsfwscan.verdicts.reading import read_files
from nsfwscan.verdicts.verdict import parsed
from tests.reports.test_html_in_browser import _CONTRAST
from tests.review.pages import HOSTILE, Store, packed, store

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

pytestmark = pytest.mark.browser
ORIGINS = "https://originals.invalid"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run with real files."""
    return store(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def linked(made: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose originals are links."""
    out = tmp_path_factory.mktemp("linked")
    packed(made, out, Template(f"{ORIGINS}/{{key}}"))
    return out / "index.html"


class Opened:
    """A page, and what it asked for and complained of."""

    def __init__(self, browser: BrowserContext, file: Path, **media: Any) -> None:
        self.page: Page = browser.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.route(f"{ORIGINS}/**", _red)
        self.page.emulate_media(**media)
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.page.goto(file.as_uri())

    def outside(self) -> list[str]:
        """The requests for anything but the page and what is inside it."""
        return [url for url in self.requests if not url.startswith("data:") and not url.endswith("index.html")]

    def keys(self, *keys: str) -> None:
        """Press keys, the list being in focus."""
        self.page.locator("#list").focus()
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, text: str) -> None:
        """Choose the item whose line or name has this text."""
        self.page.locator(".row", has_text=text).first.click()

    def verdicts(self) -> list[dict[str, Any]]:
        """The downloaded verdict file."""
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name="Download verdicts").click()
        assert waiting.value.suggested_filename.endswith(".jsonl")
        said = [json.loads(line) for line in Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()]
        return [line for line in said if "session" not in line]

    def colours(self) -> int:
        """How many pixels of the window are clearly red."""
        pixels = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")).astype(int)
        return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum())


def _red(route: Route) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "PNG")
    route.fulfill(status=200, content_type="image/png", body=buffer.getvalue())


@pytest.fixture
def opened(browser: BrowserContext) -> Iterator[Callable[..., Opened]]:
    """Open a page as a new person, and hold afterwards that nothing was complained of."""
    all_opened: list[Opened] = []

    def open_page(file: Path, reviewer: str = "Ann", *, anew: bool = True, **media: Any) -> Opened:
        one = Opened(browser, file, **media)
        all_opened.append(one)
        if anew:
            one.page.evaluate("localStorage.clear()")
            one.page.reload()
        if reviewer:
            one.page.fill("#reviewer", reviewer)
        return one

    yield open_page
    for one in all_opened:
        one.page.close()
    assert [complaint for one in all_opened for complaint in one.complaints] == []


def test_nothing_is_loaded_before_the_second_step(opened: Callable[..., Opened], linked: Path) -> None:
    """Neither at the beginning, nor on hovering, nor on the first click; then one request, for the one original."""
    one = opened(linked)
    one.choose("plain.png")
    for place in (".row", "#detail .cover", "#detail li button"):
        one.page.locator(place).first.hover()
    one.keys("o")
    assert one.page.locator("#opening[open]").is_visible() and one.outside() == [] and one.colours() == 0
    assert one.page.evaluate("document.activeElement.id") == "keep"  # Enter alone opens nothing
    one.page.keyboard.press("Enter")
    assert not one.page.locator("#opening[open]").is_visible() and one.outside() == []
    one.keys("o")
    one.page.get_by_role("button", name="Show it").click()
    one.page.get_by_role("button", name="In colour").click()
    one.page.wait_for_function("document.querySelector('#shown img')?.complete")
    assert one.colours() > 10_000
    [asked] = one.outside()
    assert asked.startswith(ORIGINS) and asked.endswith("plain.png")
    one.page.get_by_role("button", name="Cover it again").click()
    assert one.colours() == 0 and one.page.locator("#shown img").count() == 0
    one.keys("a")
    assert [line["opened"] for line in one.verdicts()] == [True]


def test_covers_are_small_grey_and_blurred(opened: Callable[..., Opened], linked: Path) -> None:
    """The picture itself is so, and not only the way it is shown."""
    one = opened(linked)
    covers = set(one.page.eval_on_selector_all("img", "found => found.map(image => image.src)"))
    assert len(covers) > 3
    for cover in covers:
        image = Image.open(io.BytesIO(base64.b64decode(cover.partition(",")[2])))
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert max(image.size) == 64 and np.abs(pixels - pixels[..., :1]).max() <= 2
        assert np.abs(np.diff(pixels[..., 0], axis=1)).max() < 60  # the squares' edges are steps of up to 255


def test_illegal_and_hidden_items_show_nothing(opened: Callable[..., Opened], linked: Path, made: Store) -> None:
    """No cover of either; of an illegal match, and of what looks like one, not even a way to the original."""
    one = opened(linked)
    text = linked.read_text(encoding="utf-8")
    told = json.loads(text.partition('id="pack">')[2].partition("</script>")[0])
    items = {Path(item["members"][0]["uri"]).name: item for item in told["items"]}
    assert items["hidden.png"]["views"][0]["cover"] is None and items["hidden.png"]["members"][0]["original"]
    illegal = items["illegal.png"]
    assert illegal["views"] == [] and [m["cover"] or m["original"] for m in illegal["members"]] == [None, None]
    assert {Path(m["uri"]).name for m in illegal["members"]} == {"illegal.png", "like.png"}
    one.choose("illegal.png")
    assert one.page.locator("#detail img").count() == 0 and one.page.get_by_role("button", name="Original").count() == 0
    one.choose("hidden.png")
    assert one.page.locator("#detail img").count() == 0 and one.page.get_by_role("button", name="Original").count() == 1


def test_decisions_by_keyboard_survive_a_reload(opened: Callable[..., Opened], linked: Path, made: Store) -> None:
    """Approve, remove, a reason, undo and a second thought; a cluster is a line for each content, but the ones left
    out."""
    one = opened(linked)
    one.choose("illegal.png")
    one.keys("e")
    one.choose("one.png")
    one.page.locator("#m2").click()
    one.keys("r")
    one.page.keyboard.type("art")
    one.page.keyboard.press("Enter")
    one.keys("2")
    one.choose("plain.png")
    one.keys("a")
    one.page.select_option("#filter", "all")
    one.choose("plain.png")
    one.keys("u")
    one.choose("hidden.png")
    one.keys("a")
    one.choose("hidden.png")
    one.keys("1")
    one.page.reload()
    assert one.page.input_value("#reviewer") == "Ann"
    assert one.page.locator("#counts").inner_text().startswith("3 decided, 3 of them unopened")
    lines = one.verdicts()
    name = {line["id"]: (Path(line["uri"]).name, line["verdict"]) for line in lines}
    assert [(*name[line["id"]], line["category"], name.get(line["supersedes"])) for line in lines] == [
        ("illegal.png", "escalate", "", None),
        ("like.png", "escalate", "", None),
        ("one.png", "remove", "hentai", None),
        ("three.png", "remove", "hentai", None),
        ("plain.png", "approve", "", None),
        ("plain.png", "undo", "", ("plain.png", "approve")),
        ("hidden.png", "approve", "", None),
        ("hidden.png", "remove", "porn", ("hidden.png", "approve")),
    ]
    assert [line["reason"] for line in lines if line["category"] == "hentai"] == ["art", "art"]
    assert {line["run_id"] for line in lines} == {"tonight"} and {line["kind"] for line in lines} == {"review"}
    assert {(line["model"], line["policy"], line["reviewer"]) for line in lines} == {("abcd", "1234", "Ann")}
    assert [parsed(line).id for line in lines] == list(name)


def test_a_slip_of_the_hand_is_undone_from_the_next_item(opened: Callable[..., Opened], linked: Path) -> None:
    """A decision moves on to the next item, from which `u` goes back to it; where nothing is decided it says so. The
    keyboard alone gets from the name to the list, and out of the original again."""
    one = opened(linked, reviewer="")
    focused = "document.activeElement.id"
    one.page.locator("#reviewer").focus()
    one.page.keyboard.type("Ann")
    one.page.keyboard.press("Enter")
    assert one.page.evaluate(focused) == "list"
    one.keys("u")
    assert one.page.locator("#said").text_content() == "There is no decision to undo."
    one.choose("plain.png")
    one.keys("1")
    assert one.page.locator(".row[aria-selected=true]", has_text="plain.png").count() == 0
    one.keys("u")
    assert (one.page.locator("#said").text_content() or "").startswith("Undone.")
    assert one.page.locator(".row[aria-selected=true]", has_text="plain.png").count() == 1
    assert [line["verdict"] for line in one.verdicts()] == ["remove", "undo"]
    one.keys("o")
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Enter")
    assert one.page.evaluate(focused) == "keep"
    one.page.keyboard.press("Escape")
    assert one.page.evaluate(focused) == "list" and one.page.locator("#shown").inner_html() == ""


def _hold(page: Any, key: str) -> None:
    """Hold a key down so long that it repeats."""
    for _ in range(4):
        page.keyboard.down(key)
    page.keyboard.up(key)


def test_who_works_by_tab_and_enter_stays_where_they_are(opened: Callable[..., Opened], linked: Path) -> None:
    """A decision by a button leaves the focus on the same button of the next item; a key that is held down decides once;
    Enter goes from the list to the item, and Escape back. No two buttons for originals have one name."""
    one = opened(linked)
    focused = "document.activeElement.dataset.act ?? document.activeElement.id"
    one.choose("plain.png")
    one.keys("Enter")
    assert one.page.evaluate("document.activeElement.tagName") == "H2"
    one.page.keyboard.press("Escape")
    assert one.page.evaluate(focused) == "list"
    one.page.locator("#detail [data-act=a]").focus()
    _hold(one.page, "Enter")
    assert one.page.evaluate(focused) == "a"
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Enter")
    assert one.page.evaluate(focused) == "1"
    one.page.locator("#list").focus()
    _hold(one.page, "s")
    _hold(one.page, "e")
    lines = one.verdicts()
    assert len({line["decided_at"] for line in lines}) == 3, lines
    assert [line["verdict"] for line in lines if line["uri"].endswith("plain.png")] == ["approve"]
    one.page.select_option("#filter", "all")
    one.choose("one.png")
    names = one.page.evaluate(
        "[...document.querySelectorAll('#detail .covers li > button:not(.member)')].map((b) => b.ariaLabel)"
    )
    assert len(names) == 3 == len(set(names)), names


def test_a_page_without_a_name_decides_nothing(opened: Callable[..., Opened], linked: Path) -> None:
    """A verdict says whose it is; and with single keys turned off, a letter decides nothing."""
    one = opened(linked, reviewer="")
    one.keys("a")
    assert one.page.locator("#warning").inner_text().startswith("Write your name")
    one.page.fill("#reviewer", "Ben")
    one.page.uncheck("#keys")
    one.keys("a")
    assert one.page.locator("#counts").inner_text().startswith("0 decided")


def test_downloaded_packs_make_room_for_new_decisions(opened: Callable[..., Opened], linked: Path) -> None:
    """A browser that is full lets go of other packs that were downloaded, and of no others; then it says that decisions
    are lost with the tab."""
    one = opened(linked)
    full = """() => {
        for (let size = 1 << 22; size >= 1; size >>= 1) {
            for (let i = 0; ; i++) {
                try { localStorage.setItem(`nsfwscan/old/entry/${size}-${i}`, "x".repeat(size)); } catch { break; }
            }
        }
    }"""
    one.page.evaluate("localStorage.setItem('nsfwscan/old/downloaded', '1')")
    one.page.evaluate(full)
    one.choose("plain.png")
    one.keys("a")
    assert one.page.locator("#warning").is_hidden()
    assert one.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('nsfwscan/old/')).length") == 0
    for _ in range(20):  # a busy Chromium may open the page anew before it has stored 10 MB
        one.page.reload()
        if one.page.locator("#counts").inner_text().startswith("1 decided"):
            break
        one.page.wait_for_timeout(200)
    assert one.page.locator("#counts").inner_text().startswith("1 decided")
    one.page.evaluate(full)
    one.keys("a")
    assert "can store nothing more" in one.page.locator("#warning").inner_text()
    assert len(one.verdicts()) == 3


def test_an_object_without_a_hash_can_only_be_skipped(
    opened: Callable[..., Opened], made: Store, tmp_path: Path
) -> None:
    """No verdict could be kept by its content."""
    item = {
        **_items(1)[0],
        "members": [{"uri": "/x", "sha256": None, "cover": None, "no_cover": "denied", "original": None}],
    }
    one = opened(_page(made, tmp_path, [item, *_items(1)]))
    assert one.page.locator(".row[aria-selected=true]").get_attribute("aria-posinset") == "2"
    one.page.locator(".row").first.click()
    assert one.page.locator("#detail").inner_text().count("can only skip it") == 1
    one.keys("a", "s", "a")
    assert [line["uri"] for line in one.verdicts()] == ["/0.jpg"]


def _items(count: int) -> list[dict[str, Any]]:
    def item(number: int) -> dict[str, Any]:
        member = {
            "uri": f"/{number}.jpg",
            "sha256": f"{number:064x}",
            "cover": None,
            "no_cover": "none",
            "original": None,
        }
        said = {"line": f"rule · porn {number}", "summary": "s", "kind": "review", "shield": "blur", "media": "image"}
        nothing = {"model": "", "policy": "", "probability": None, "no_cover": "none", "views": [], "contents": 1}
        return {**said, **nothing, "members": [member], "facts": [["places", ["x" * 300]]]}

    return [item(number) for number in range(count)]


def _page(made: Store, folder: Path, items: list[dict[str, Any]]) -> Path:
    page = folder / "index.html"
    page.write_text(packing._page(made.run, PackRequest("Many"), items), encoding="utf-8")
    return page


@pytest.mark.long
def test_ten_thousand_items(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """Only the rows in sight are there; the last one is reached by a key, decided, and kept."""
    one = opened(_page(made, tmp_path, _items(10_000)))
    one.page.select_option("#filter", "all")
    one.keys("End")
    assert one.page.locator(".row").count() < 60
    assert one.page.locator(".row[aria-selected=true]").get_attribute("aria-posinset") == "10000"
    one.keys("1", "Home")
    one.page.locator("#list").evaluate("list => { list.scrollTop = 360000 }")
    one.page.locator(".row", has_text="/5000.jpg").click()
    one.keys("a")
    one.page.reload()
    assert sorted(line["uri"] for line in one.verdicts()) == ["/5000.jpg", "/9999.jpg"]


def test_names_reasons_and_context_that_attack(opened: Callable[..., Opened], linked: Path, made: Store) -> None:
    """They are text, with what is hidden in them spelled out, and go into the verdict file as they are."""
    one = opened(linked)
    one.choose("onerror")
    text = one.page.locator("#detail").inner_text()
    assert "<i>rule</i>" in text and "<script>alert(3)</script>" in text and "\\u{202e}" in text
    assert one.page.locator("#detail i, #detail script, #detail img[onerror]").count() == 0
    one.page.fill("#reason", "<img src=x onerror=alert(4)>\u202e")
    one.page.keyboard.press("Enter")
    one.keys("1")
    [line] = one.verdicts()
    assert line["uri"].endswith(HOSTILE.replace("/", "∕")) and line["reason"] == "<img src=x onerror=alert(4)>\u202e"
    assert one.page.evaluate("[...document.scripts].length") == 2 and one.outside() == []
    refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } })()"
    assert one.page.evaluate(refused)
    one.complaints.clear()  # the browser's word on that


def test_views_of_an_animation(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """Pictures of the frames lie in a folder beside the page; one frame is shown at a time, each when it is asked for.
    Without the folder everything else works."""
    packed(made, tmp_path, None)
    one = opened(tmp_path / "index.html")
    one.choose("moving.gif")
    assert one.page.locator("#detail .covers li").count() == 4 and "at 0:00" in one.page.locator("#detail").inner_text()
    one.keys("o")
    one.page.get_by_role("button", name="Show it").click()
    assert one.outside() == []
    one.page.locator("#shown button").nth(1).click()
    one.page.wait_for_function("document.querySelector('#shown img').complete")
    assert len(one.outside()) == 1 and one.page.evaluate("document.querySelector('#shown img').naturalWidth") == 64
    assert not list((tmp_path / "originals").glob(f"{_sha(made, 'illegal.png')}*"))
    shutil.rmtree(tmp_path / "originals")
    one.page.locator("#shown button").nth(2).click()
    one.page.locator("#shown", has_text="cannot be shown").wait_for()
    one.complaints.clear()  # the browser's own word on the file that is gone


def _sha(made: Store, name: str) -> str:
    return hashlib.sha256((made.media / name).read_bytes()).hexdigest()


def _under_a_part(**maps: str) -> dict[str, Any]:
    """An item whose original lies wholly in the box of a detector."""
    [item] = _items(1)
    box = {"left": 0, "top": 0, "width": 1, "height": 1}
    view = {"index": 0, "at_s": None, "cover": None, "score": None, "picture": None, "maps": maps}
    view["parts"] = [{"label": "<b>", "box": box}]
    members = [{**item["members"][0], "original": f"{ORIGINS}/a.png"}]
    return {**item, "shield": "none", "views": [view], "members": members}


def test_parts_are_covered_until_asked_for(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """The box of a detector hides what is below it, in the original too; each is uncovered by itself."""
    one = opened(_page(made, tmp_path, [_under_a_part()]))
    one.keys("o")
    one.page.get_by_role("button", name="Show it").click()
    one.page.wait_for_function("document.querySelector('#shown img')?.complete")
    assert one.colours() == 0
    one.page.get_by_role("button", name="Uncover").click()
    assert one.colours() > 10_000


def test_parts_of_other_contents_of_a_cluster_are_covered(
    opened: Callable[..., Opened], made: Store, tmp_path: Path
) -> None:
    """Also where no cover, and so no view, was drawn."""
    item = _under_a_part()
    covered = {**item["members"][0], "parts": item["views"][0]["parts"]}
    one = opened(_page(made, tmp_path, [{**item, "views": [], "members": [covered, {**covered, "uri": "/other"}]}]))
    for name in ("/other", "/0.jpg"):
        one.page.locator(f"button[aria-label^='Original of {name}']").first.click()
        one.page.get_by_role("button", name="Show it").click()
        one.page.locator("#shown img").evaluate("img => img.decode()")
        assert one.colours() == 0 and one.page.get_by_role("button", name="Uncover").count() == 1
        one.page.get_by_role("button", name="Cover it again").click()


def test_parts_are_covered_in_grey_too(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """The filter that greys an original does not lift it above the boxes on it."""
    one = opened(_page(made, tmp_path, [{**_under_a_part(), "shield": "blur"}]))
    one.keys("o")
    one.page.get_by_role("button", name="Show it").click()
    one.page.locator("#shown img").evaluate("img => img.decode()")

    def darkest() -> int:
        one.page.mouse.move(0, 0)
        shown = Image.open(io.BytesIO(one.page.locator("#shown .frame").screenshot())).convert("L")
        return int(np.asarray(shown)[20:-20, 40:-20].min())

    assert darkest() == 0x55, "the colour of a covered part; the picture would be darker"
    one.page.get_by_role("button", name="Uncover").click()
    assert darkest() < 0x40


def test_maps_of_an_original(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """They are requested by a click each, after the original alone, lie below the same covered parts, and the page says what
    they can tell. Covered again, they are gone."""
    one = opened(_page(made, tmp_path, [_under_a_part(error_levels=f"{ORIGINS}/levels.jpg")]))
    one.keys("o")
    assert one.page.get_by_role("button", name="Error levels").count() == 0 and one.outside() == []
    one.page.get_by_role("button", name="Show it").click()
    one.page.locator("#shown img").evaluate("img => img.decode()")
    assert (
        one.outside() == [f"{ORIGINS}/a.png"] and one.page.get_by_role("button", name="Compressed twice").count() == 0
    )
    one.page.get_by_role("button", name="Error levels").click()
    one.page.locator("#shown img").evaluate("img => img.decode()")
    assert one.outside() == [f"{ORIGINS}/a.png", f"{ORIGINS}/levels.jpg"] and one.colours() == 0
    said = one.page.locator("#shown").inner_text()
    assert "may have been put in later" in said and "A map proves nothing" in said and "no JPEG" in said
    one.page.get_by_role("button", name="Uncover").click()
    assert one.colours() > 10_000
    one.page.get_by_role("button", name="Cover it again").click()
    assert one.colours() == 0 and one.page.get_by_role("button", name="Error levels").count() == 0


def test_a_linked_video(opened: Callable[..., Opened], made: Store, tmp_path: Path) -> None:
    """Nothing of it is loaded before the second step; then it stands at its worst view, muted, and does not play."""
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    [item] = _items(1)
    view = {"index": 12, "at_s": 1.2, "cover": None, "score": 0.9, "picture": None, "parts": [], "maps": {}}
    member = {**item["members"][0], "original": f"{ORIGINS}/a.webm"}
    one = opened(_page(made, tmp_path, [{**item, "media": "video", "views": [view], "members": [member]}]))
    video = (tmp_path / "a.webm").read_bytes()

    def serve(route: Route) -> None:  # in ranges, as stores do: without them a browser cannot seek
        first, _, last = route.request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = video[int(first) : int(last) + 1 if last else len(video)]
        ranged = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(video)}", "Accept-Ranges": "bytes"}
        route.fulfill(status=206, content_type="video/webm", body=part, headers=ranged)

    one.page.route(f"{ORIGINS}/a.webm", serve)
    one.page.locator("#detail li button").first.hover()
    one.keys("o")
    assert one.outside() == [] and one.page.locator("video").count() == 0
    one.page.get_by_role("button", name="Show it").click()
    state = """async () => {
        const video = document.querySelector("#shown video");
        const is_there = () => video.readyState >= 1 && Math.abs(video.currentTime - 1.2) < 0.05;
        for (let i = 0; i < 400 && !is_there(); i++) await new Promise((done) => setTimeout(done, 50));
        return [is_there(), video.muted, video.paused, video.autoplay, video.controls, video.played.length];
    }"""
    assert one.page.evaluate(state) == [True, True, True, False, True, 0]
    assert {url.rpartition("/")[2] for url in one.outside()} == {"a.webm"}
    one.page.get_by_role("button", name="Cover it again").click()
    assert one.page.locator("video").count() == 0


def test_a_break_is_suggested_and_written_down(opened: Callable[..., Opened], linked: Path) -> None:
    """After twenty opens; the session says what was answered, and how much was opened and seen: a line of the verdict file,
    which an import takes, also where the day before is on the page."""
    one = opened(linked)
    session = '{"opens": 19, "seconds": 60, "breaks": [], "changes": [], "since": {"opens": 19, "seconds": 60}}'
    yesterday = '{"id": "5f0c1d6e-2f0e-4c53-9d0c-9a2f4f6f7c11", "day": "2026-11-20", "opens": 3, "seconds": 9, "breaks": [], "changes": []}'
    one.page.evaluate(
        "said => localStorage.setItem(`nsfwscan/${JSON.parse(document.getElementById('pack').textContent).pack}/session/2026-11-20`, said)",
        yesterday,
    )
    one.page.evaluate(
        "said => localStorage.setItem(`nsfwscan/${JSON.parse(document.getElementById('pack').textContent).pack}/session`, said)",
        session,
    )
    one.page.reload()
    one.choose("plain.png")
    one.keys("o")
    one.page.get_by_role("button", name="Show it").click()
    one.page.get_by_role("button", name="Cover it again").click()
    one.keys("a")
    assert "opened 20 originals" in one.page.locator("#warning").inner_text()
    one.page.get_by_role("button", name="I took a break").click()
    with one.page.expect_download() as waiting:
        one.page.get_by_role("button", name="Download session").click()
    earlier, said = (json.loads(line) for line in Path(waiting.value.path()).read_text(encoding="utf-8").splitlines())
    assert (said["opens"], said["decided"], said["unopened"]) == (20, 1, 0)
    assert (earlier["day"], earlier["opens"], earlier["session"][:8]) == ("2026-11-20", 3, "5f0c1d6e")
    with one.page.expect_download() as whole:
        one.page.get_by_role("button", name="Download verdicts").click()
    given = read_files([str(whole.value.path())], StorageConfig())
    assert [line.opens for line in given.sessions] == [3, 20] and len(given.verdicts) == 1
    assert [(one["opens"], one["taken"]) for one in said["breaks"]] == [(20, True)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_names(opened: Callable[..., Opened], linked: Path, scheme: Any) -> None:
    """All text stands out (WCAG AA); every control has a name; options know their place among all."""
    one = opened(linked, color_scheme=scheme, reduced_motion="reduce")
    one.choose("one.png")
    assert one.page.evaluate(_CONTRAST) == []
    nameless = "[...document.querySelectorAll('button, input, select')].filter(e => !(e.textContent.trim() || e.labels?.length || e.ariaLabel)).length"
    assert one.page.evaluate(nameless) == 0
    assert one.page.locator("[role=option]:not([aria-setsize][aria-posinset])").count() == 0
    narrow = one.page
    narrow.set_viewport_size({"width": 360, "height": 740})
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Callable[..., Opened], linked: Path, tmp_path: Path, scheme: Any) -> None:
    """Deque's axe, where npm can bring it: the page, the question before an original, and the list of keys."""
    fetched = (
        subprocess.run(
            ["npm", "pack", "--silent", "axe-core@4.14.1"], cwd=tmp_path, capture_output=True, check=False, timeout=120
        )
        if shutil.which("npm")
        else None
    )
    if fetched is None or fetched.returncode:
        pytest.skip("npm cannot bring axe-core")
    shutil.unpack_archive(next(tmp_path.glob("*.tgz")), tmp_path)
    axe = (tmp_path / "package" / "axe.min.js").read_text(encoding="utf-8")
    one = opened(linked, color_scheme=scheme)
    for keys in ((), ("o",), ("?",)):
        one.choose("one.png") if not keys else one.keys(*keys)
        one.page.evaluate(f"(() => {{ {axe} }})()")
        passed, found = one.page.evaluate("axe.run().then(result => [result.passes.length, result.violations])")
        assert passed > 10
        serious = [
            (rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in ("serious", "critical")
        ]
        assert serious == [], keys
        one.page.keyboard.press("Escape")
