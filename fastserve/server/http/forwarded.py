"""What a proxy in front says of a request: the path below which it shows the server, and whose request it is.

After Forwarded, as ASGI has it, `root_path` is that prefix and `path` begins with it, whether or not the proxy has cut
it off. route_path() is the path as this server's routes know it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from fastserve.server.config.addresses import LONGEST, PREFIX, Address, networks

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def route_path(scope: Scope) -> str:
    """The path without the prefix of a proxy, or of the app that this one is mounted in."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) or "/" if path == root or path.startswith(f"{root}/") else path


class Forwarded:
    """root_path: the prefix where no header says it. trusted: proxies that are believed. routes(): paths of this
    server; a prefix that begins as one of them (/chat) must be cut off by the proxy, any other may be.
    """

    def __init__(self, app: App, root_path: str, trusted: tuple[str, ...], routes: Callable[[], Iterable[str]]) -> None:
        self.app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]
        self.root_path = root_path
        self.trusted = networks(trusted)
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # type: ignore[arg-type]
            return
        headers = Headers(scope=scope)
        root = self.root_path
        if self.trusts(scope):
            scope.setdefault("state", {})["forwarded_host"] = headers.get("x-forwarded-host", "")
            said = headers.get("x-forwarded-prefix", "").rstrip("/")
            root = said if len(said) <= LONGEST and PREFIX.fullmatch(said) else root
        if root and not scope.get("root_path"):
            scope["root_path"] = root
            path = scope["path"]
            scope["path"] = path if self.is_whole(path, root) else root + path

        async def send_relative(message: MutableMapping[str, Any]) -> None:
            """The browser may know this server under another scheme and name than it does itself."""
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                place = urlsplit(found.get("location", ""))
                if place.netloc == headers.get("host") and not place.path.startswith("//"):
                    found["location"] = place._replace(scheme="", netloc="").geturl()
            await send(message)

        await self.app(scope, receive, send_relative)  # type: ignore[arg-type]

    def is_whole(self, path: str, root: str) -> bool:
        """Whether the proxy has left the prefix where it was."""
        if path != root and not path.startswith(f"{root}/"):
            return False
        return all(route.split("/")[1] != root.split("/")[1] for route in self.routes())

    def trusts(self, scope: Scope) -> bool:
        client = scope.get("client")
        ip = Address(client[0], None).ip if client else None
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return ip is not None and any(ip in network for network in self.trusted)
