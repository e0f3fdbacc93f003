"""Servers of models are stubs (stub_server.py), the hub is one of this machine (fake_hub.py); a test may say else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastserve.gateway.models import server_process
from tests.gateway.models.fake_hub import FakeHub, fake_hub


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "COMMAND", [sys.executable, str(Path(__file__).with_name("stub_server.py"))])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """What huggingface_hub finds in processes that are started from now on."""
    with fake_hub() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_shown")
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield made
