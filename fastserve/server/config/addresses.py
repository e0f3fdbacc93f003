"""Names of hosts, origins of pages, prefixes and networks: as they are given in settings and come in headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

from fastserve.server.config.forms import CREDENTIALS

ANY = "*"
NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/]{1,255}")
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+")
"""A path that can stand in a page and in a Location as it is: neither //, nor dots alone, nor quotes."""

LONGEST = 253
"""Characters of a name of a host, or of a prefix."""

DEFAULT_PORTS = (80, 443)
Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """host: in small letters, an IPv6 address without brackets. port: None for the scheme's own."""

    host: str
    port: int | None

    @property
    def ip(self) -> Ip | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def address(text: str) -> Address | None:
    """Of a Host header, or of what follows :// in an Origin. None for what is neither."""
    host, port = text.strip().lower(), ""
    if host.startswith("["):
        host, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or Address(host, None).ip is None:
            return None
        port = port[1:]
    else:
        host, _, port = host.partition(":")
        host = host.removesuffix(".")
        if len(host) > LONGEST or not NAME.fullmatch(host):
            return None
    if port and not (port.isascii() and port.isdigit() and int(port) <= 65535):
        return None
    number = int(port) if port else None
    return Address(host, None if number in DEFAULT_PORTS else number)


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches a server that listens at --host."""
    ip = Address(host, None).ip
    return host == "localhost" or (ip is not None and ip.is_loopback)


# -- settings: each raises ValueError with what was wrong --------------------------------------------------------------


def host_name(text: str) -> str:
    """An entry of allowed_hosts."""
    if "://" in text or "/" in text:
        raise ValueError(f"{text!r} is no name of a host: give NAME or NAME:PORT, without http:// and without a path")
    if text != ANY and address(text.removeprefix(ANY).removeprefix(".")) is None:
        raise ValueError(
            f"{text!r} is no name of a host: give NAME, NAME:PORT, .NAME for all below it, or {ANY} for any"
        )
    return text.lower()


def origin(text: str) -> str:
    """An entry of cors_origins, as browsers write it."""
    found = text.rstrip("/").lower()
    if found not in (ANY, "null") and not ORIGIN.fullmatch(found):
        raise ValueError(f"{text!r} is no origin of a page: give http://NAME:PORT, without a path, or {ANY} for all")
    return found


def root_path(text: str) -> str:
    """A prefix without a slash at its end; empty for none."""
    found = text.strip().rstrip("/")
    if found and not PREFIX.fullmatch(found):
        raise ValueError(f"{text!r} must be a path such as /llm, of letters, digits, and . _ ~ -")
    return found


def url(text: str) -> str:
    """An http or https URL."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or not text.isprintable() or " " in text:
        shown = CREDENTIALS.sub("://********@", text)
        raise ValueError(f"{shown!r} is no URL: give https://NAME/PATH")
    return text


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks; ANY is all of them."""
    found: list[Network] = []
    for text in texts:
        try:
            found += map(ipaddress.ip_network, ("0.0.0.0/0", "::/0") if text == ANY else (text,))
        except ValueError as error:
            raise ValueError(f"{text!r} is neither an address nor a network such as 10.0.0.0/8") from error
    return tuple(found)
