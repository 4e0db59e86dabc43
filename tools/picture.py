"""Take the README's pictures from the built book: `make book`, then `python tools/picture.py`.

They show the laboratory after some steps of a run that its address describes, so that anybody gets
the same picture again.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "_build" / "html" / "laboratory.html"
RUN = "tab=learn&data=moons&lam=3&eps=0.1&seed=1&step=400"
SIZE = {"width": 1240, "height": 1000}
SHOWN = 730  # pixels from the top of the laboratory: what each network answers, and both maps
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def picture(theme: str) -> Path:
    """Write the picture in one theme and return its path."""
    target = ROOT / ".github" / f"laboratory-{theme}.png"
    browser_path = os.environ.get("HILBERT_CHROMIUM") or next(
        filter(None, map(shutil.which, CHROMIUM)), None
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=theme, viewport=SIZE, reduced_motion="reduce")
        page.goto(f"{PAGE.as_uri()}#{RUN}")
        page.locator(".hl-counter", has_text="step 400").wait_for(timeout=120_000)
        page.locator(".hl-dock").evaluate("dock => { dock.style.position = 'static'; }")
        page.wait_for_timeout(500)
        box = page.locator(".hlab").bounding_box()
        clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": SHOWN}
        page.screenshot(path=target, clip=clip, full_page=True)
        browser.close()
    return target


if __name__ == "__main__":
    if not PAGE.exists():
        sys.exit(f"{PAGE} is missing: run `make book` first")
    for theme in ("light", "dark"):
        print(picture(theme))
