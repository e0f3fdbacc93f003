"""A page at /: static files of the package; the content security policy allows no other source."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Set explicitly: the operating system's own MIME table may give .js a type that browsers refuse to run."""

HEADERS = {
    "Cache-Control": "no-cache",  # revalidated each time, so that files of two versions never mix
    "Content-Security-Policy": "default-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


SHARED = Path(__file__).parent / "page"
"""What all our pages have in common; they find it under /page/shared/."""


class PageFiles(StaticFiles):
    def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        response.headers.update(HEADERS | _type(Path(full_path)))
        return response


def add_page(app: FastAPI, folder: Path) -> None:
    """Serves the folder's index.html at / and its files under /page/, beside SHARED."""
    app.mount("/page/shared", PageFiles(directory=SHARED), name="shared")
    app.mount("/page", PageFiles(directory=folder), name="page")
    index = folder / "index.html"

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        headers = HEADERS | _type(index)
        root = request.scope.get("root_path", "")
        if not root:
            return FileResponse(index, headers=headers)
        # Behind a proxy its address may lack the last slash, and what it names relative to itself is then elsewhere.
        text = index.read_text(encoding="utf-8").replace("<head>", f'<head>\n<base href="{escape(root)}/">', 1)
        return HTMLResponse(text, headers=headers)


def _type(path: Path) -> dict[str, str]:
    return {"Content-Type": f"{TYPES[path.suffix]}; charset=utf-8"} if path.suffix in TYPES else {}
