"""One HTML file of many parts. Everything that is not the page's own is escaped: labels, names of clients and what
policies say may be anybody's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically

OWN = files("sim.report.page")
SERVED = files("fastserve").joinpath("server", "page")
SHARED = files("fastserve").joinpath("server", "http", "page")
"""Of the server's page, and of all our pages."""

MODULES: Sequence[tuple[Traversable, str]] = (
    (SHARED, "dom.js"), (SHARED, "format.js"), (SERVED, "palette.js"), (OWN, "schedule.js"), (OWN, "view.js"),
    (OWN, "words.js"), (OWN, "chart.js"), (OWN, "board.js"), (OWN, "life.js"), (OWN, "player.js"), (OWN, "lines.js"),
    (OWN, "hands.js"), (OWN, "app.js"),
)  # fmt: skip
"""A module after those that it imports. They become one script, so no two may have names in common."""

HUES = 12  # levels with a colour of their own in base.css

IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w./-]+";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:const|async function|function|class) )", re.MULTILINE)
OTHER = re.compile(r"^\s*(?:import|export)\b", re.MULTILINE)
PLACE = re.compile(r"@@(\w+)@@")


class Markup(str):
    """HTML that goes into a page as it is; any other text is escaped."""

    __slots__ = ()


def write_page(path: Path, title: str, parts: Mapping[str, str], data: Mapping[str, Any]) -> Path:
    """parts: what stands at the places of index.html, plain text or Markup. data: what the script draws.

    Raises OutputError where the file cannot be written.
    """
    text = page(title, parts, data)
    with atomically(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return path


def page(title: str, parts: Mapping[str, str], data: Mapping[str, Any]) -> str:
    icon = SHARED.joinpath("icon.svg").read_text(encoding="utf-8")
    own = {"panel": Markup(_text("panel.html")), "icon": Markup(_small(icon))}
    body = _fill(_text("index.html"), {**own, **parts})
    style, script = _style(), _script()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    icon_url = f"data:image/svg+xml;base64,{base64.b64encode(icon.encode()).decode()}"
    return "\n".join([
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(title)}</title>",
        f'<link rel="icon" href="{icon_url}">',
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        body,
        f'<script type="application/json" id="data">{inert(data)}</script>',
        f'<script type="module">{script}</script>',
        "</body>",
        "</html>",
        "",
    ])  # fmt: skip


def inert(data: object) -> str:
    """JSON that ends no element and begins none, whatever texts are in it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # and nothing but ASCII
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packed(data: object) -> str:
    """JSON, compressed (zlib) and in base64: what a schedule is in a page."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """Each place once, so that what is filled in is not looked at again."""

    def put(found: re.Match[str]) -> str:
        part = parts[found[1]]
        return str(part) if isinstance(part, Markup) else escape(part)

    return PLACE.sub(put, template)


@cache
def _style() -> str:
    hues = "\n".join(
        [f'[data-hue="{n}"] {{ --hue: var(--level-{n}); --on-hue: var(--on-level-{n}); }}' for n in range(1, HUES + 1)]
    )
    base = SHARED.joinpath("base.css").read_text(encoding="utf-8")
    return base + _fill(_text("page.css"), {"hues": Markup(hues)})


@cache
def _script() -> str:
    return "\n".join([_module(folder, name) for folder, name in MODULES])


def _module(folder: Traversable, name: str) -> str:
    """Without its imports and exports, which within one script are there anyway."""
    text = EXPORT.sub("", IMPORT.sub("", folder.joinpath(name).read_text(encoding="utf-8")))
    if OTHER.search(text) or "</script" in text:
        raise ValueError(f'{name}: only `import {{...}} from "./...";` and `export` of a const, function or class')
    return text


def _text(name: str) -> str:
    return OWN.joinpath(name).read_text(encoding="utf-8")


def _small(icon: str) -> str:
    return icon.replace("<svg ", '<svg width="22" height="22" aria-hidden="true" ', 1)


def _hash(text: str) -> str:
    """As a content security policy names a script or a style: nothing else of the page runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
