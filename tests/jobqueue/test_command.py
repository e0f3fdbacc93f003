"""`fastserve worker`: what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.__main__ import main
from fastserve.engine import Engine
from fastserve.server import run
from fastserve.server.http import logs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give --queue redis://HOST:PORT, or set FASTSERVE_QUEUE"),
        (("--queue", "http://user:secret@a"), "--queue: it must be redis://HOST:PORT"),
        (("--queue", "redis://a", "--server", "host:80"), "must begin with http://"),
        (("--queue", "redis://a", "--concurrency", "0"), "give at least 1"),
        (("--queue", "redis://a", "--visibility-timeout", "0.1"), "give seconds from 1"),
        (("--queue", "redis://a", "--server-key-env", "NO_SUCH_KEY"), "there is no such variable"),
    ],
)
def test_invalid_arguments(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTSERVE_QUEUE", raising=False)
    assert main(["worker", *flags]) == 2
    said = capsys.readouterr().err
    assert words in said and "secret" not in said and len(said.splitlines()) == 1


def test_settings_are_checked_and_hide_the_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", "--queue", "amqp://user:secret@host"]) == 2
    assert "redis://HOST:PORT" in (said := capsys.readouterr().err) and "secret" not in said
    url = "redis://user:secret@host:1/2"
    assert main(["serve", "--show-config", "--queue", url]) == 0
    assert main(["gateway", "--show-config", "--queue", url, "--cache", url]) == 0
    said = capsys.readouterr().out
    assert "secret" not in said and "redis://********@host:1/2" in said
    assert main(["gateway", "--cache", "redis://user:secret@host:x"]) == 2
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "gateway", "worker"])
def test_without_the_extra(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line that says what to install."""
    monkeypatch.setenv("FASTSERVE_QUEUE", "redis://127.0.0.1:1")
    monkeypatch.setenv("FASTSERVE_GATEWAY_QUEUE", "redis://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "celery", None)
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    monkeypatch.setattr(run, "make_engine", lambda _: Engine.scripted())
    flags = {"serve": ["--port", "0", "--state-dir", str(tmp_path)], "gateway": ["--port", "0"], "worker": []}[command]
    assert main([command, *flags]) == 1
    assert "celery is not installed: pip install 'fastserve-testbed[queue]'" in capsys.readouterr().err
