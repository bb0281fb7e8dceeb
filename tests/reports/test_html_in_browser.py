"""`summary.html` in a browser: on a phone and on a desk, in light and in dark, whatever the objects are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page
from tests.reports.summaries import delta_record, empty_record, over_record, page_of, record, replay_record


@pytest.fixture
def opened(browser: BrowserContext, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a record's page and afterwards hold that nothing was complained of and nothing else was asked for."""
    complaints: list[str] = []
    requests: list[str] = []
    pages: list[Page] = []
    file = tmp_path / "summary.html"

    def open_page(made: dict[str, Any], width: int = 1400, scheme: Any = "light") -> Page:
        file.write_text(page_of(made), encoding="utf-8")
        page = browser.new_page()
        pages.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(file.as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert set(requests) <= {file.as_uri(), "data:,"}


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
@pytest.mark.parametrize("make", [record, over_record, empty_record, delta_record, replay_record])
def test_in_a_browser(opened: Callable[..., Page], make: Callable[[], dict[str, Any]], width: int, scheme: str) -> None:
    """On a phone and on a desk the headline is on the first screen, nothing scrolls sideways, nothing is requested."""
    page = opened(make(), width, scheme)
    box = page.get_by_role("heading", level=1).bounding_box()
    assert box is not None and box["y"] + box["height"] < 400
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true })")
    wide = page.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide[0] <= width and wide[1] <= width and wide[2] <= width
    over = "[...document.querySelectorAll('td, th, dd, li, code, p')].filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline' && e.clientWidth > 1).map(e => e.outerHTML.slice(0, 200))"
    assert page.evaluate(over) == []
    assert page.locator("img, script, iframe").count() == 0


@pytest.mark.browser
def test_hostile_name_in_a_browser(opened: Callable[..., Page]) -> None:
    """A browser shows a hostile URI as the text that it is, and isolates it from the direction of its surroundings."""
    page = opened(record())
    cell = page.locator("#errors").get_by_text("onerror=alert(1)").first
    assert cell.is_visible()
    assert page.locator("#errors bdi").filter(has_text="onerror=alert(1)").count() >= 1
    page.locator("#errors details.long summary").first.click()
    assert page.locator("#errors details.long > bdi").first.is_visible()


_CONTRAST = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c } };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || e.closest('title, style')) continue;
    const style = getComputedStyle(e);
    const [a, b] = [luminance(channels(e.closest('svg') ? style.fill : style.color)), luminance(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push([e.outerHTML.slice(0, 120), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened: Callable[..., Page], scheme: str) -> None:
    """All text stands out from its background by 4.5 to 1 (WCAG AA), in light and in dark."""
    made = {**delta_record(), "exit_code": 4, "reason": "too many"}
    assert opened(made, scheme=scheme).evaluate(_CONTRAST) == []
