"""The site of `make docs`: every link of every page leads somewhere, and nothing is fetched from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

pytest.importorskip("mkdocs", reason="the site is built with the extra docs: make setup-all")

ROOT = Path(__file__).resolve().parents[1]
FETCHED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_its_menu(site: Path) -> None:
    """A page that nobody links to is not found."""
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f'href="docs/{page.stem}.html"' in start, f"{page.name} is not in the menu: add it to mkdocs.yml"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text(encoding="utf-8")), page


def test_links_hold_as_they_do_in_the_repository(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for there in ("fastserve/sched/policy.py.html", "experiments/index.html", "docs/statistics.html#intervals"):
        assert f'href="{there}"' in start, there
        assert (site / there.partition("#")[0]).exists(), there
    assert "class Policy" in re.sub("<[^>]+>", "", (site / "fastserve/sched/policy.py.html").read_text("utf-8"))


def test_a_story_has_its_code_folded_and_its_pictures(tmp_path: Path) -> None:
    from scripts.site_files import _story

    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})  # type: ignore[no-untyped-call]
    code = nbformat.v4.new_code_cell("shown = 1\nif shown:\n    show()", outputs=[output])  # type: ignore[no-untyped-call]
    text = nbformat.v4.new_markdown_cell("# A story")  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=[text, code])  # type: ignore[no-untyped-call]
    nbformat.write(notebook, tmp_path / "made.ipynb")  # type: ignore[no-untyped-call]
    pages = _story("made", tmp_path / "made.ipynb")
    page = pages.pop("notebooks/made.md")
    assert isinstance(page, str)
    assert page.startswith("# A story")
    assert '??? quote "Code"' in page
    assert "    if shown:\n        show()" in page  # indented, as the folded part has to be
    [(path, picture)] = pages.items()
    assert path.removeprefix("notebooks/") in page
    assert isinstance(picture, bytes)


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
