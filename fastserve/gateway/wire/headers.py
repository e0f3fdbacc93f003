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

NOT_PASSED = HOP_BY_HOP | {b"date", b"server", b"set-cookie", b"www-authenticate", b"x-request-id", b"alt-svc"}
"""Of an upstream's answer: the gateway's own server says these."""
NOT_PASSED_FAMILIES = (b"access-control-",)


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
    return [
        (name, value)
        for name, value in lower
        if name not in NOT_PASSED and name not in gone and not name.startswith(NOT_PASSED_FAMILIES)
    ]


def value_of(raw: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first of this name."""
    return next((value for name, value in raw if name.lower() == wanted), None)
