"""The pictures of docs/notebooks.md: its blocks, executed in one notebook, as Chromium shows them.

    python -m scripts.notebook_pictures

A picture is of what the block before it shows. Needs Chromium and the dev extra; nothing is fetched.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "notebooks.md"
WIDTH = 860  # pixels, at which a table of the page fits


def blocks(text: str) -> list[tuple[str, str | None]]:
    """(code, path of its picture) of each block of Python."""
    found = re.findall(r"```python\n(.*?)```(?:\n\n!\[[^]]*\]\((img/[\w-]+\.png)\))?", text, re.DOTALL)
    return [(code, path or None) for code, path in found]


def executed(codes: list[str]) -> Any:
    """A notebook of these cells, with outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip()) for code in codes])
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    return notebook


def main() -> int:
    from nbconvert import HTMLExporter
    from playwright.sync_api import sync_playwright

    found = blocks(PAGE.read_text(encoding="utf-8"))
    page, _ = HTMLExporter(theme="light").from_notebook_node(executed([code for code, _ in found]))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": 800})
        shown.route("http*://**", lambda route: route.abort())
        shown.goto(path.as_uri())
        cells = shown.locator(".jp-CodeCell")
        for number, (_, picture) in enumerate(found):
            if picture is not None:
                output = cells.nth(number).locator(".jp-OutputArea-output").first
                output.screenshot(path=PAGE.parent / picture)
                print(PAGE.parent / picture)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
