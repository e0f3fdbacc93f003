"""Which files the site of `make docs` has, under which names: a hook of MkDocs, named in mkdocs.yml.

Every Markdown page of PAGES is where it is in the repository, so that its links to others and to pictures hold in both
places. A file of source that a page links to is shown as a page of its own. Stories are the notebooks as they were
executed last (`make notebooks` writes them to build/notebooks), their code folded.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbconvert import MarkdownExporter

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "experiments/README.md",
    "results/LOG.md",
    "traces/README.md",
)
EXECUTED = ROOT / "build" / "notebooks"
STORIES = "notebooks/README.md"
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yaml": "yaml"}

FOLDED = """{% extends 'markdown/index.md.j2' %}
{% block in_prompt %}{% endblock %}
{% block input %}
??? quote "Code"

{{ ('```python\\n' ~ cell.source ~ '\\n```') | indent }}
{% endblock %}
"""
"""A template of nbconvert: a code cell is closed until one opens it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File, Files

    found: dict[str, File] = {}

    def add(uri: str, content: str | bytes | None = None) -> None:
        path = None if content is not None else str(ROOT / uri)
        found.setdefault(uri, File.generated(config, uri, content=content, abs_src_path=path))

    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for pattern in PAGES
        for path in sorted(ROOT.glob(pattern))
    }
    for uri, text in texts.items():
        add(uri)
        for target in _linked(uri, text):
            path = ROOT / target
            if target in texts or not path.is_file() or path.suffix == ".md":
                continue
            if path.suffix in (".png", ".svg", ".pdf"):
                add(target)
            else:
                add(f"{target}.md", _source(target, path.read_text(encoding="utf-8")))
    for uri, content in _stories().items():
        add(uri, content)
    for script in config.extra["polyfills"]:
        add(script)
    theme = [file for file in files if file.src_uri not in found and not (ROOT / "docs" / file.src_uri).exists()]
    return Files([*theme, *found.values()])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a file of source leads to its page, one to a folder to what its README says."""

    def target(match: re.Match[str]) -> str:
        to, hash, anchor = match[1].partition("#")
        uri = _resolved(page.file.src_uri, to)
        for ending in (".md", "/README.md"):
            if uri is not None and files.get_file_from_path(uri) is None and files.get_file_from_path(uri + ending):
                return f"{to.rstrip('/')}{ending}{hash}{anchor}"
        return match[1]

    return LINK.sub(target, markdown)


def _resolved(uri: str, to: str) -> str | None:
    """The path in the repository that a link of this page means; None for one that leads elsewhere."""
    if not to or "://" in to or to.startswith(("/", "mailto:")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(uri), to))


def _linked(uri: str, text: str) -> list[str]:
    found = [_resolved(uri, to.partition("#")[0]) for to in LINK.findall(text)]
    return [path for path in found if path is not None and not path.startswith("..")]


def _source(uri: str, text: str) -> str:
    language = LANGUAGES.get(Path(uri).suffix, "text")
    return f"# {uri}\n\n````{language}\n{text}\n````\n"


def _stories() -> dict[str, str | bytes]:
    """Pages and pictures of the executed notebooks, and the page that lists all."""
    from notebooks.__main__ import NAMES, title

    pages: dict[str, str | bytes] = {}
    lines = ["# Stories", "", "Each is a notebook of this repository; its code is folded into the page.", ""]
    for name in NAMES:
        executed = EXECUTED / f"{name}.ipynb"
        if executed.exists():
            pages |= _story(name, executed)
            lines.append(f"* [{title(name)}]({name}.md)")
        else:
            lines.append(f"* {title(name)} (not executed yet: `make notebooks`)")
    return pages | {STORIES: "\n".join([*lines, ""])}


def _story(name: str, executed: Path) -> dict[str, str | bytes]:
    exporter = MarkdownExporter(raw_template=FOLDED)  # type: ignore[no-untyped-call]
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    resources: dict[str, Any] = {"output_files_dir": f"{name}_files"}
    text, made = exporter.from_notebook_node(notebook, resources=resources)
    return {f"notebooks/{name}.md": text} | {f"notebooks/{path}": data for path, data in made["outputs"].items()}
