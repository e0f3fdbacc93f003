"""The artifact stage: a model is fetched once, from a hub of this machine, and the stage ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="needs the gateway extra")

from fastserve.named_models import at_hand
from tests.gateway.models.conftest import hub
from tests.gateway.models.fake_hub import FakeHub

__all__ = ["hub"]

WHOLE = {
    "config.json": json.dumps({"model_type": "llama"}).encode(), "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 999, "pytorch_model.bin": b"pickle",
}  # fmt: skip


def fetch(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastserve.deploy.fetch", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_model_is_fetched_once(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = WHOLE
    folder = tmp_path / "artifacts" / "model"
    done = fetch(f"owner/name={folder}")
    assert done.returncode == 0 and f"owner/name: fetched into {folder}" in done.stdout, done.stderr
    assert (folder / "model.safetensors").read_bytes() == WHOLE["model.safetensors"]
    assert not (folder / "pytorch_model.bin").exists()
    asked = len(hub.asked)
    again = fetch(f"owner/name={folder}")
    assert again.returncode == 0 and "is in" in again.stdout
    assert len(hub.asked) == asked, "without a network"


def test_one_that_was_cut_off_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = WHOLE
    assert fetch(f"owner/name={tmp_path}").returncode == 0
    (tmp_path / ".fetched.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    assert fetch(f"owner/name={tmp_path}").returncode == 0
    assert (tmp_path / "model.safetensors").read_bytes() == WHOLE["model.safetensors"]


def test_several_and_a_single_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["owner/name"] = WHOLE
    hub.repos["owner/quantised"] = {"a-Q4.gguf": b"GGUF4", "a-Q8.gguf": b"GGUF8"}
    done = fetch(f"owner/name@main={tmp_path / 'one'}", f"owner/quantised:a-Q4.gguf={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "a-Q4.gguf").read_bytes() == b"GGUF4"
    assert not (tmp_path / "two" / "a-Q8.gguf").exists()


def test_what_cannot_be_fetched_fails_the_stage(hub: FakeHub, tmp_path: Path) -> None:
    done = fetch(f"owner/none={tmp_path}")
    assert done.returncode == 1 and "there is no model owner/none" in done.stderr
    assert not (tmp_path / ".fetched.json").exists()


@pytest.mark.parametrize("words", [[], ["=x"], ["a/b"], ["a/b=x", "c/d=x"]])
def test_what_is_no_stage(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARTIFACT_MODEL_DIR", raising=False)
    assert fetch(*words).returncode == 2


def test_the_variables_that_users_know(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage fetches there, and a server that is told no model serves what lies there."""
    hub.repos["owner/name"] = WHOLE
    monkeypatch.setenv("ARTIFACT_MODEL_DIR", str(tmp_path / "model"))
    assert at_hand() != str(tmp_path / "model"), "nothing is there yet"
    assert fetch("owner/name").returncode == 0
    assert at_hand() == str(tmp_path / "model")
