"""Which headers go on: a client's to its upstream, and an upstream's to its client."""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings")
)  # fmt: skip
"""Of one connection alone (RFC 9110, 7.6.1), with those that `Connection` names."""

CREDENTIALS = frozenset((b"authorization", b"cookie", b"x-api-key", b"api-key", b"x-goog-api-key"))
"""A client's, for this gateway alone."""

OF_PAGES = frozenset((b"origin", b"referer", b"access-control-request-method", b"access-control-request-headers"))
"""What a browser says of a page: the gateway has decided about it."""

NOT_SENT = HOP_BY_HOP | CREDENTIALS | OF_PAGES | {
    b"host", b"content-length", b"accept-encoding", b"content-type", b"expect", b"x-request-id", b"forwarded",
    b"x-fastserve-client",
}  # fmt: skip
NOT_SENT_FAMILIES = (b"x-forwarded-", b"sec-")

OF_SITES = frozenset(
    (b"clear-site-data", b"content-security-policy", b"content-security-policy-report-only",
     b"cross-origin-resource-policy", b"link", b"nel", b"refresh", b"report-to", b"reporting-endpoints",
     b"service-worker-allowed", b"strict-transport-security", b"x-content-type-options", b"x-frame-options")
)  # fmt: skip
"""What a server tells a browser about its whole site: the site is the gateway's."""

NOT_PASSED = HOP_BY_HOP | OF_SITES | {
    b"date", b"server", b"set-cookie", b"www-authenticate", b"x-request-id", b"x-upstream", b"alt-svc"
}  # fmt: skip
"""Of an upstream's answer: the gateway's own server says these."""
NOT_PASSED_FAMILIES = (b"access-control-",)


NO_PAGES = (b"application/json", b"text/event-stream", b"text/plain", b"application/x-ndjson")
NO_PAGE = (b"content-security-policy", b"default-src 'none'; sandbox")
"""Of an answer of any other type: a browser that opens it runs none of it as a page of the gateway's."""


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Small letters."""
    found: set[bytes] = set()
    for name, value in headers:
        if name.lower() == b"connection":
            found.update(word.strip().lower() for word in value.split(b","))
    return found


def to_upstream(raw: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Lines of a request, of what its client has sent (names in small letters, as ASGI has them)."""
    raw = list(raw)
    gone = named_by_connection(raw)
    return b"".join([
        b"%b: %b\r\n" % (name, value)
        for name, value in raw
        if name not in NOT_SENT and name not in gone and not name.startswith(NOT_SENT_FAMILIES)
    ])  # fmt: skip


def to_client(raw: Headers) -> Headers:
    """Names in small letters. (The parser has refused whatever cannot stand in a header.)"""
    gone = named_by_connection(raw)
    lower = [(name.lower(), value) for name, value in raw]
    found = [
        (name, value)
        for name, value in lower
        if name not in NOT_PASSED and name not in gone and not name.startswith(NOT_PASSED_FAMILIES)
    ]
    if any(name == b"content-type" and not value.lower().startswith(NO_PAGES) for name, value in found):
        found.append(NO_PAGE)
    return found


def value_of(raw: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first of this name."""
    return next((value for name, value in raw if name.lower() == wanted), None)
