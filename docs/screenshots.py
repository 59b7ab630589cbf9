"""Takes the README's pictures of a report: `python docs/screenshots.py report.html`.

Needs playwright and a Chromium on PATH. Writes `report-models.png` and `report-factors.png` beside this file.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

MOST_BYTES = 150_000
WIDTH, HEIGHT = 1200, 900

# Of each picture: what stands at its top, and what is unfolded for it.
PICTURES = {
    "report-models.png": ("#models", ""),
    "report-factors.png": ("#factors .set details", "#factors .set details"),
}


def main() -> None:
    """Take the pictures of the page that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="a page of `rdagent-sota report`")
    report = parser.parse_args().report.resolve()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("there is no Chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(report.as_uri())
        for name, (top, unfolded) in PICTURES.items():
            target = Path(__file__).parent / name
            target.write_bytes(small(taken(page, top, unfolded)))
            sys.stdout.write(f"{target} ({target.stat().st_size:,} bytes)\n")
        browser.close()


def taken(page: Page, top: str, unfolded: str) -> bytes:
    """Return a picture of one screen of the page.

    Args:
        page: The page.
        top: What to scroll to.
        unfolded: The first of these is opened; empty for nothing.
    """
    if unfolded:
        page.locator(f"{unfolded} summary").first.click()
    page.locator(top).first.evaluate("one => window.scrollTo({top: one.offsetTop, behavior: 'instant'})")
    page.mouse.move(0, 0)  # away from the plots, which show their buttons under it
    page.wait_for_timeout(1500)  # what is unfolded is drawn by then
    return page.screenshot()


def small(picture: bytes) -> bytes:
    """Return a PNG of at most `MOST_BYTES`, with as many colours as fit."""
    if len(picture) <= MOST_BYTES:
        return picture
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        file = io.BytesIO()
        image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            file, "PNG", optimize=True
        )
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()


if __name__ == "__main__":
    main()
