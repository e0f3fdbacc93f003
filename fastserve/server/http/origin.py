"""Which web pages may use this server: no page of another origin, and none that calls this address by a foreign name.

A browser sends requests to any address, this machine's own included, for whatever page asks it to. Two things tell who
asks. Origin and Sec-Fetch-Site (Fetch, W3C Fetch Metadata) name the page, and no page can change them. Host is the name
in the page's own address: a page at a name of its own whose address record is switched to this machine (DNS rebinding)
is of the same origin for its browser, but its Host is foreign. Programs send no Origin and are asked for nothing.
"""

from __future__ import annotations

import socket

from starlette.datastructures import Headers

from fastserve.server.api.errors import ApiError
from fastserve.server.config.addresses import ANY, ORIGIN, Address, address, is_local
from fastserve.server.config.http_settings import HttpSettings
from fastserve.server.http.forwarded import Scope

PRIVATE = (".local", ".internal")
"""Ends of names that exist within a network only: nobody can register them to point elsewhere."""

UNUSED_ELSEWHERE = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of all responses: no page of another origin embeds one, not even where its browser does not say who asks."""


class Origins:
    """allowed_hosts: names that this server is called by, beside those that cannot be foreign; `.name` is all below it,
    `*` any. cors_origins: pages elsewhere that may use it.

    Always: localhost and what ends so, and addresses (a rebound page has a name). Where other machines reach the server
    also names without a dot (of this network, of a container), PRIVATE ones and this machine's own. With tokens on any
    name will do unless allowed_hosts is given: a page at a foreign name has no token.
    """

    def __init__(self, config: HttpSettings, tokens: bool) -> None:
        self.names = tuple([name.lower() for name in config.allowed_hosts])
        self.any_host = ANY in self.names or (tokens and not self.names)
        self.own = {"localhost", config.host.lower(), socket.gethostname().lower()}
        self.reached = not is_local(config.host)
        self.pages = config.cors_origins

    def check(self, headers: Headers, scope: Scope) -> None:
        """Raises ApiError 403."""
        forwarded = scope.get("state", {}).get("forwarded_host", "")
        called = [*headers.getlist("host"), *filter(None, forwarded.split(","))]
        server = (scope.get("server") or ("", None))[0]
        hosts = [address(text) for text in called]
        if not self.any_host:
            for text, host in zip(called, hosts, strict=True):
                if host is None or not self.is_called(host, server):
                    raise ApiError(403, foreign_host(text, host))
        self.check_page(headers, hosts, scope["method"] in ("GET", "HEAD"))

    def is_called(self, host: Address, server: str) -> bool:
        """Whether this server may be called so. server: an address, or the one name of a client in this process."""
        name = host.host
        if host.ip is not None or name in self.own or name.endswith(".localhost") or self.is_listed(host):
            return True
        if any(f".{name}".endswith(entry.removeprefix(ANY)) for entry in self.names if entry.startswith((".", "*."))):
            return True
        return (self.reached or name == server) if "." not in name else (self.reached and name.endswith(PRIVATE))

    def is_listed(self, host: Address) -> bool:
        """Whether allowed_hosts has this very name; an entry with a port is for that port alone."""
        entries = [entry for entry in map(address, self.names) if entry is not None]
        return any(entry.host == host.host and entry.port in (None, host.port) for entry in entries)

    def check_page(self, headers: Headers, hosts: list[Address | None], reads: bool) -> None:
        """hosts: what this request calls the server. reads: it changes nothing.

        Raises ApiError 403 for a page of another origin.
        """
        if ANY in self.pages:
            return
        site = headers.get("sec-fetch-site")
        if site == "same-origin":
            return
        given = headers.getlist("origin")
        for origin in given:
            if not self.is_own(origin, hosts):
                raise ApiError(403, foreign_page(origin))
        if site in ("same-site", "cross-site") and not given and not (reads and is_visit(headers)):
            raise ApiError(403, foreign_page(""))

    def is_own(self, origin: str, hosts: list[Address | None]) -> bool:
        """Whether a page of this origin may use the server."""
        if origin in self.pages:
            return True
        scheme, _, place = origin.partition("://")
        page = address(place) if scheme in ("http", "https") else None
        # Behind a proxy that says another Host the page is of a listed name, at the port of its scheme.
        return page is not None and (page in hosts or (self.is_listed(page) and page.port is None))


def is_visit(headers: Headers) -> bool:
    """Whether somebody follows a link to here: another page may lead here, but sees nothing of it."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def by_browser(headers: Headers) -> bool:
    """Whether a request may come of a page. Over plain HTTP to another machine browsers send no Sec-Fetch-*, and with
    an image neither an Origin; so whatever else only they say counts as well.
    """
    accept = headers.get("accept", "")
    return (
        any(name in headers for name in ("origin", "referer", "sec-fetch-site", "sec-fetch-dest", "sec-ch-ua"))
        or headers.get("user-agent", "").startswith("Mozilla/")
        or "image/" in accept
        or "text/html" in accept
    )


def is_json(content_type: str) -> bool:
    """application/json, or +json: types that a page of another origin cannot send unasked."""
    kind, _, subtype = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def foreign_host(text: str, host: Address | None) -> str:
    if host is None:
        return f"the header Host is no name of a host: {text!r}"
    return (
        f"this server is not known as {host.host}: if it is meant to be, start it with --allowed-hosts {host.host} "
        "(a web page at a name of its own could otherwise use it)"
    )


def foreign_page(origin: str) -> str:
    if ORIGIN.fullmatch(origin):
        return f"a web page of {origin} may not use this server: if it should, start it with --cors-origins {origin}"
    return (
        "a web page of another origin may not use this server, nor a file or a sandboxed frame: serve the page from "
        "an origin of its own, and start the server with --cors-origins ORIGIN"
    )
