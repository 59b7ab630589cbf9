"""The page in a real Chromium: what is drawn, what fits, what prints, and that no text of a log runs.

Without Chromium these tests are skipped, and the summary says so; with SOTA_REQUIRE_CHROMIUM=1 that fails.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdagent_sota_bridge.report import page
from rdagent_sota_bridge.report.gather import Report
from tests import reports
from tests.hostile import hostile_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("SOTA_REQUIRE_CHROMIUM") == "1"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="CHROMIUM IS NOT INSTALLED: the page was not tried in a browser"
)

MEGABYTE = 1_000_000

# Of every plot: what it is, whether it is drawn, and of each trace how many points plotly has calculated.
PLOTS = """() => Array.from(document.querySelectorAll('.canvas')).map(one => ({
    id: one.id,
    drawn: one.querySelectorAll('.main-svg').length > 0,
    traces: (one.data || []).length,
    points: (one.calcdata || []).map(points => (points[0].z ? points[0].z.map(row => Array.from(row)).flat()
        : points.map(point => point.y === undefined ? point.s : point.y)).filter(Number.isFinite).length),
}))"""

BOX = ("x", "y", "width", "height")

UNFOLD = "() => document.querySelectorAll('details').forEach(one => { one.open = true; })"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a Chromium."""
    assert CHROMIUM is not None, "SOTA_REQUIRE_CHROMIUM=1, and no Chromium is on PATH"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without its sandbox it runs as root, as in a container.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(
    browser: Any, file: Path, width: int = 1280, scheme: str = "light", **options: Any
) -> Iterator[Any]:
    """Open a page; at the end no error, dialog or request has come of it."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
    tab = context.new_page()
    trouble: list[str] = []

    def of_dialog(dialog: Any) -> None:
        trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def of_request(request: Any) -> None:
        if request.url != file.as_uri() and not request.url.startswith(("data:", "blob:")):
            trouble.append(f"request: {request.url}")

    tab.on("console", lambda said: trouble.append(f"console: {said.text}") if said.type != "log" else None)
    tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    tab.on("dialog", of_dialog)
    tab.on("request", of_request)
    tab.goto(file.as_uri())
    yield tab
    assert trouble == []
    context.close()


def write(report: Report, folder: Path) -> Path:
    """Write the page of a report."""
    file = folder / "report.html"
    file.write_text(page.render(report), encoding="utf-8")
    return file


def draw_all(tab: Any) -> list[dict[str, Any]]:
    """Unfold everything, and return what each plot has drawn without anyone scrolling to it."""
    tab.evaluate(UNFOLD)
    tab.wait_for_function(
        "() => Array.from(document.querySelectorAll('.canvas')).every(one => one.querySelector('.main-svg'))",
        timeout=20_000,
    )
    found: list[dict[str, Any]] = tab.evaluate(PLOTS)
    return found


def has_points(plot: dict[str, Any]) -> bool:
    """Tell whether a plot has traces, and each of them points."""
    return 0 < plot["traces"] == len(plot["points"]) and min(plot["points"]) > 0


def grey(picture: bytes) -> Any:
    """Return the brightness of each pixel of a picture."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"), dtype=np.float64)


def spread(picture: bytes) -> float:
    """Return how much the pixels of a picture differ: 0 of a blank one."""
    return float(grey(picture).std())


def brightness(picture: bytes) -> float:
    """Return the median brightness of a picture: that of its ground."""
    return float(np.median(grey(picture)))


def overflow(tab: Any) -> int:
    """Return by how many pixels the page is wider than the screen."""
    wider: int = tab.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    return wider


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of thirty loops in three runs, and five factors."""
    return write(reports.whole_report(10, 5), tmp_path_factory.mktemp("whole"))


def test_every_plot_of_a_whole_report_has_points(browser: Any, whole: Path) -> None:
    """What is not folded is drawn unasked, and in a picture of the whole page; the rest once unfolded."""
    with opened(browser, whole) as tab:
        tab.wait_for_function("() => document.querySelectorAll('.canvas .plot-container').length === 15")
        picture = grey(tab.screenshot(full_page=True))
        for canvas in tab.locator(".canvas:visible").all():
            left, top, width, height = (round(canvas.bounding_box()[side]) for side in BOX)
            assert picture[top : top + height, left : left + width].std() > 4, canvas
        plots = draw_all(tab)
    assert len(plots) == 2 * (4 + 3) + 1 + 5 * 4
    for plot in plots:
        assert has_points(plot), plot
    assert whole.stat().st_size < 8 * MEGABYTE


def test_a_table_shows_where_it_goes_on(browser: Any, whole: Path) -> None:
    """On a phone a shadow lies at the right edge until the end is there; the arrow keys lead to it."""
    with opened(browser, whole, 400) as tab:
        table = tab.get_by_role("region", name="Every model loop, the highest IC first")
        for scheme, sign in (("light", -1), ("dark", 1)):
            tab.emulate_media(color_scheme=scheme)
            edges = []
            for at in (0, 100_000):
                table.evaluate("(one, at) => { one.scrollLeft = at; }", at)
                edges.append(float(np.median(grey(table.screenshot())[:, -4])))
            assert sign * (edges[0] - edges[1]) > 25, scheme
        table.evaluate("one => { one.scrollLeft = 0; }")
        table.focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("() => document.activeElement.scrollLeft > 0")
        regions = "() => Array.from(document.querySelectorAll('.scroll')).filter(one => %s).length"
        assert tab.evaluate(regions % "one.scrollWidth > one.clientWidth") > 4
        unreached = "one.scrollWidth > one.clientWidth && one.matches(':not([tabindex][role][aria-label])')"
        assert tab.evaluate(regions % unreached) == 0


@pytest.mark.parametrize("widths", [(360,), (768, 1280)])
def test_the_page_fits_every_width(browser: Any, whole: Path, widths: tuple[int, ...]) -> None:
    """On a phone, a tablet and a desktop, light and dark, it shows something and never scrolls sideways."""
    phone = {"is_mobile": True, "has_touch": True} if widths[0] < 500 else {}
    with opened(browser, whole, widths[0], **phone) as tab:
        for width, scheme in itertools.product(widths, ("light", "dark")):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.emulate_media(color_scheme=scheme)
            tab.evaluate("() => window.scrollTo({top: 0, behavior: 'instant'})")
            assert overflow(tab) <= 0
            pictures = [tab.screenshot()]
            tab.locator("#model-curves-with-cost").scroll_into_view_if_needed()
            tab.wait_for_selector("#model-curves-with-cost .main-svg")
            pictures.append(tab.locator("#model-curves-with-cost").screenshot())
            for picture in pictures:
                assert spread(picture) > 8
                assert (brightness(picture) > 200) == (scheme == "light")
        tab.evaluate(UNFOLD)
        for width in widths:
            tab.set_viewport_size({"width": width, "height": 800})
            assert overflow(tab) <= 0
            assert tab.evaluate(
                "() => Array.from(document.querySelectorAll('.canvas .main-svg')).every(one =>"
                " one.getBoundingClientRect().width <= one.closest('.scroll').scrollWidth + 1)"
            )


def test_buttons_and_colours_of_a_plot(browser: Any, whole: Path) -> None:
    """No button sends a plot away, and its colours follow the system where that changes to dark."""
    colour = "() => document.getElementById('model-loops-IC').data[0].line.color"
    with opened(browser, whole) as tab:
        tab.locator("#model-loops-IC").scroll_into_view_if_needed()
        tab.wait_for_selector("#model-loops-IC .main-svg")
        buttons = tab.locator("#model-loops-IC .modebar-btn")
        titles = [button.get_attribute("data-title") for button in buttons.all()]
        light = tab.evaluate(colour)
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_timeout(200)
        dark = tab.evaluate(colour)
    assert len(titles) == 4
    assert not any(word in str(titles).lower() for word in ("cloud", "share", "link", "edit"))
    assert light.startswith("#") and dark.startswith("#")
    assert light != dark


def test_paper_has_everything_unfolded_and_light(browser: Any, tmp_path: Path) -> None:
    """In print all plots are drawn within the sheet, folded parts are open, and afterwards folded again."""
    file = write(reports.whole_report(2, 1), tmp_path)
    with opened(browser, file, scheme="dark") as tab:
        folded = "() => document.querySelectorAll('details:not([open]):not(.code)').length"
        before = tab.evaluate(folded)
        tab.set_viewport_size({"width": 688, "height": 1000})
        tab.emulate_media(media="print")
        tab.wait_for_function("() => document.documentElement.classList.contains('printing')")
        assert tab.evaluate(folded) == 0
        assert all(plot["drawn"] for plot in tab.evaluate(PLOTS))
        assert overflow(tab) <= 0
        wide = "() => Math.max(...Array.from(document.querySelectorAll('.main-svg')).map(one => %s))"
        assert tab.evaluate(wide % "one.getBoundingClientRect().right") <= 688
        assert brightness(tab.screenshot(full_page=True)) > 200
        tab.emulate_media(media="screen")
        tab.wait_for_function("() => !document.documentElement.classList.contains('printing')")
        assert tab.evaluate(folded) == before
        assert len(tab.pdf(prefer_css_page_size=True)) > 100_000


def test_the_legend_hides_and_shows(browser: Any, tmp_path: Path) -> None:
    """A click on an entry hides its line in every plot of the legend, a double click leaves it alone."""
    visible = "id => document.getElementById(id).data.filter(trace => trace.visible !== false).length"
    with opened(browser, write(reports.whole_report(3, 1), tmp_path)) as tab:
        draw_all(tab)
        chips = tab.locator(".chip[data-legend='model-curves'][data-key]")
        count = chips.count()
        assert count == 5
        chips.first.click()
        for plot in ("with-cost", "without-cost", "drawdown"):
            assert tab.evaluate(visible, f"model-curves-{plot}") == count - 1
        assert chips.first.get_attribute("aria-pressed") == "false"
        chips.nth(1).dblclick()
        assert tab.evaluate(visible, "model-curves-drawdown") == 1
        tab.locator(".chip.all[data-legend='model-curves']").click()
        assert tab.evaluate(visible, "model-curves-drawdown") == count
        assert tab.evaluate(visible, "model-loops-IC") == 2


def test_tables_sort_and_lead_to_what_is_folded(browser: Any, tmp_path: Path) -> None:
    """A head sorts either way, loops without a result last; a factor's name opens its part and plots."""
    cells = (
        "at => Array.from(document.querySelectorAll('#models table.sortable tbody tr'))"
        ".map(row => row.cells[at] ? row.cells[at].dataset.order : '')"
    )
    with opened(browser, write(reports.whole_report(4, 2), tmp_path)) as tab:
        head = tab.locator("#models table.sortable thead th button").nth(5)
        for sign in (-1, 1):
            head.click()
            orders = tab.evaluate(cells, 5)
            values = [float(order) for order in orders if order]
            assert values == sorted(values, key=lambda value: sign * value)
            assert len(values) == 7 and not orders[-1]
        tab.locator("a[href='#factor-0-1']").click()
        tab.wait_for_selector("#factor-0-1-ic .main-svg")
        assert tab.locator("#factor-0-1").get_attribute("open") is not None


def test_hostile_texts_run_nothing(browser: Any, tmp_path: Path) -> None:
    """Markup, scripts and plotly's own tags in any text of a log are shown, and nothing of them runs."""
    with opened(browser, write(hostile_report(), tmp_path)) as tab:
        plots = draw_all(tab)
        for canvas in tab.locator(".canvas").all()[:8]:
            canvas.hover(force=True)
        assert tab.evaluate("() => 'ran' in window") is False
        assert (
            tab.evaluate(
                "() => document.querySelectorAll('main img, main iframe, main svg a, main b').length"
            )
            == 0
        )
        links = tab.evaluate("() => Array.from(document.links).map(one => one.getAttribute('href'))")
        assert all(link.startswith("#") for link in links)
        scripts = "() => document.querySelectorAll('script:not([type])').length"
        assert tab.evaluate(scripts) == 2
        assert "<script>window.ran=1</script>" in tab.evaluate(
            "() => document.querySelector('main').textContent"
        )
        for width in (1280, 360):
            tab.set_viewport_size({"width": width, "height": 800})
            assert overflow(tab) <= 0
    assert plots and all(map(has_points, plots))


@pytest.mark.parametrize("which", list(reports.poor_reports()))
def test_what_is_missing_is_said_and_not_drawn(browser: Any, tmp_path: Path, which: str) -> None:
    """A page that misses something has no empty plot, says what is missing, and opens without an error."""
    report = reports.poor_reports()[which]
    with opened(browser, write(report, tmp_path), 360) as tab:
        plots = draw_all(tab)
        assert all(map(has_points, plots))
        assert tab.locator(".missing").count() > 0
        assert overflow(tab) <= 0
        if which == "no Qlib data":
            assert "no Qlib data" in tab.locator("#factors .note").first.inner_text()
