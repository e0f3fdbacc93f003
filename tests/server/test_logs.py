"""The log says what happened, whatever those who send requests would like it to say."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import socket
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from fastserve.server.http import logs
from tests.server.test_process import _environment, server

__all__ = ["_environment"]

FORGED = "12:00:00 info    DELETE /everything 200 client=root"
LINES = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]
TERMINAL = ["\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x08\x08\x08", "\x9b31m", "\u202e", "\u2066", "\x00", "\x7f"]


def written(form: str, message: str, *args: object, **more: object) -> str:
    """What the handler of set_up() writes of one record."""
    stream = io.StringIO()
    before = logging.getLogger().handlers[:]
    level = logging.getLogger().level
    try:
        logs.set_up("info", form)
        with contextlib.redirect_stderr(stream):
            logging.getLogger("fastserve.access").info(message, *args, **more)  # type: ignore[arg-type]
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("evil", [*LINES, *TERMINAL, "\ud800"])
def test_whatever_is_said_stays_in_its_line(form: str, evil: str) -> None:
    text = f"/a{evil}{FORGED}"
    facts = {"method": f"GET{evil}", "path": text, "status": 404, "request_id": text, "client": text}
    said = [
        written(form, "%(method)s %(path)s %(status)s", facts, extra={"facts": facts}),
        written(form, "the client %s said %r", text, text),
        written(form, f"stopped: {text}"),
    ]
    for line in said:
        assert line.endswith("\n") and line[:-1].isprintable() and len(line.splitlines()) == 1, repr(line)
        if form == "json":
            assert json.loads(line)["level"] == "info"
        else:
            assert re.match(r"\d\d:\d\d:\d\d info    (\"?GET|the client|stopped)", line)


def test_a_value_with_spaces_forges_no_other_value() -> None:
    facts = {"method": "GET", "path": '/x 200 client=root" client=', "status": 404, "client": "a client=b"}
    line = written("text", "%(method)s %(path)s %(status)s", facts, extra={"facts": facts})
    assert line[17:] == 'GET "/x 200 client=root\\" client=" 404 client="a client=b"\n'
    plain = {"method": "GET", "path": "/jobs/ä?=&%20", "status": 200, "client": "alice", "request_id": ""}
    line = written("text", "%(method)s %(path)s %(status)s", plain, extra={"facts": plain})
    assert line[17:] == 'GET /jobs/ä?=&%20 200 client=alice request_id=""\n'
    long = written("text", "%(path)s", {"path": "/" + "x" * 60_000})
    assert len(long) < 600


@pytest.mark.parametrize("evil", [*LINES, *TERMINAL])
def test_an_exception_forges_no_line(evil: str) -> None:
    try:
        raise ValueError(f"no model {evil}{FORGED}")
    except ValueError as error:
        said = written("text", "request %s failed", "r1", exc_info=error)
        as_json = json.loads(written("json", "failed", exc_info=error))
    assert as_json["exception"].endswith(FORGED)
    first, *rest = said.removesuffix("\n").split("\n")
    assert first.endswith("request r1 failed") and "    Traceback (most recent call last):" in rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_requests_that_forge_lines(tmp_path: Path) -> None:
    """At a real server: paths, ids, methods and clients of a token file, in both formats."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"good alice\nodd eve\u2028{FORGED}\n", encoding="utf-8")
    for form in ("text", "json"):
        with server("--api-key-file", str(tokens), "--log-format", form) as found:
            asked = 0
            for evil in [*LINES, *TERMINAL]:
                for token in ("good", "odd"):
                    headers = {"Authorization": f"Bearer {token}"}
                    assert httpx.get(f"{found.base}/a{quote(evil + FORGED)}", headers=headers).status_code == 404
                    asked += 1
            host, port = found.base.removeprefix("http://").split(":")
            for extra in (
                b"X-Request-Id: a\x1b[2J\x85b\r\n",
                b"User-Agent: a\x1b[2J\r\n",
                b"Authorization: Bearer a\x0bb\r\n",
            ):
                with socket.create_connection((host, int(port))) as peer:
                    peer.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + extra + b"\r\n")
                    answer = peer.makefile("rb").read()
                asked += b" 200 " in answer.split(b"\r\n")[0]
            httpx.get(f"{found.base}/health")
            found.wait_for("/health")
            lines = [line.removesuffix("\n") for line in found.said]
            if form == "json":
                events = [json.loads(line) for line in lines if line.startswith("{")]
                assert sum(event.get("logger") == "fastserve.access" for event in events) == asked + 1
                assert all(event.get("client") != "root" for event in events)
            else:
                told = [line for line in lines if re.match(r"\d\d:\d\d:\d\d info +GET ", line)]
                assert len(told) == asked + 1, "one line a request"
                assert not any(
                    re.match(r".{8} info +DELETE", line) or re.search(r" client=root$", line) for line in lines
                )
            assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
