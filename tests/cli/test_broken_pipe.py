"""Commands whose output nobody reads to its end, as with `| head`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastserve import __main__ as command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.name != "posix", reason="a pipe without a reader is another error there")
@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["serve", "--show-config"]], ids=" ".join)
def test_a_reader_that_has_gone_ends_it_quietly(words: list[str]) -> None:
    if "serve" in words:
        pytest.importorskip("pydantic_settings", reason="needs the server extra")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "fastserve", *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert run.stderr == b""
    assert run.returncode == command.BROKEN_PIPE or (
        "--help" in words and run.returncode == 0
    )  # argparse may swallow it


def test_another_broken_pipe_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(argv: object) -> int:
        raise BrokenPipeError("the server has gone")

    monkeypatch.setattr(command, "_main", lost)
    with pytest.raises(BrokenPipeError, match="the server has gone"):
        command.main([])
