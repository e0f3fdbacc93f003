"""Place: one upstream as settings name it: a URL, with options behind commas."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import SecretStr

from fastserve.server.config import addresses
from fastserve.server.config.forms import plain

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
OPTIONS = ("name", "weight", "key_env", "model")
FORM = "write URL[,name=NAME][,weight=N][,key_env=VARIABLE][,model=NAME]..."


class Place(NamedTuple):
    """url: with http:// or https://, without a slash at its end. models: none to ask the server for them."""

    url: str
    name: str = ""
    weight: float = 1.0
    key: SecretStr | None = None
    models: tuple[str, ...] = ()


def split(text: str) -> list[str]:
    """Several upstreams written as one text, with spaces or commas between them."""
    found: list[str] = []
    for word in text.replace(",", " ").split():
        name, equals, _ = word.partition("=")
        if equals and name.isidentifier() and found:  # an option, known or not
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def parse(text: str) -> Place:
    """Raises ValueError."""
    url, *options = text.split(",")
    return place(url, options)


def place(url: str, options: Iterable[str]) -> Place:
    """Raises ValueError."""
    values: dict[str, Any] = {}
    models: list[str] = []
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in OPTIONS or not value:
            shown = name if name.isidentifier() else "what follows a comma"  # the value may be a key
            raise ValueError(f"{shown} is no option of an upstream; {FORM}")
        if name == "model":
            models.append(value)
        elif name == "weight":
            values["weight"] = weight(value)
        elif name == "name":
            values["name"] = named(value)
        else:
            values["key"] = key_in(value)
    return Place(url_of(url), **values, models=tuple(models))


def url_of(text: str) -> str:
    """Of a server: its path is kept as a prefix, /v1 at its end left out. Raises ValueError."""
    given = text.strip()
    found = addresses.url(given if "://" in given else f"http://{given}").rstrip("/")
    if "?" in found or "#" in found or "@" in found:
        shown = plain(given.partition("?")[0])  # a password and a key are not repeated
        raise ValueError(
            f"{shown!r} is no address of a server: give http://HOST:PORT (and its key as key_env=VARIABLE)"
        )
    return found.removesuffix("/v1")


def name_of(url: str) -> str:
    """The usual name of an upstream: HOST:PORT, and its path if it has one."""
    return re.sub(r"[^A-Za-z0-9._:@-]+", "-", url.partition("://")[2]).strip("-:")[:128]


def weight(value: Any) -> float:
    """Raises ValueError."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = 0.0
    if isinstance(value, bool) or not 0 < found <= 1e6:
        raise ValueError(f"weight={value!r} must be a number above 0, at most a million")
    return found


def named(text: str) -> str:
    """Raises ValueError."""
    if not NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no name of an upstream: up to 128 letters, digits, and . _ : @ -")
    return text


def key_in(variable: str) -> SecretStr:
    """Raises ValueError for a variable that is not set."""
    value = os.environ.get(variable)
    if not value:
        raise ValueError(f"key_env={variable}: the environment has no such variable, or it is empty")
    return key_text(SecretStr(value))


def key_text(key: SecretStr) -> SecretStr:
    """Raises ValueError for one that cannot stand in a header."""
    value = key.get_secret_value()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("the key of an upstream must be one word of printable ASCII")
    return key
