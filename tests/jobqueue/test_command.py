"""`fastserve worker`: what it refuses."""

from __future__ import annotations

import pytest

from fastserve.__main__ import main


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
    pytest.importorskip("fastapi")
    assert main(["serve", "--queue", "amqp://user:secret@host"]) == 2
    assert "redis://HOST:PORT" in (said := capsys.readouterr().err) and "secret" not in said
    url = "redis://user:secret@host:1/2"
    assert main(["serve", "--show-config", "--queue", url]) == 0
    assert main(["gateway", "--show-config", "--queue", url, "--cache", url]) == 0
    said = capsys.readouterr().out
    assert "secret" not in said and "redis://********@host:1/2" in said
    assert main(["gateway", "--cache", "redis://user:secret@host:x"]) == 2
    assert "secret" not in capsys.readouterr().err
