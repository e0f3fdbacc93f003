"""The packaged trained model as its users meet it. `make test-trained` installs it and runs this; CI where it can."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAME = os.environ.get("FASTSERVE_TRAINED_MODEL")
if NAME is None:
    pytest.skip("make test-trained fetches the model and runs this", allow_module_level=True)
pytest.importorskip("torch")
httpx = pytest.importorskip("httpx")

from fastserve.__main__ import main  # noqa: E402
from fastserve.named_models import SMOLLM2, at_hand  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0
CAPITAL = "What is the capital of France?"

pytestmark = pytest.mark.usefixtures("one_thread")


def piped(text: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["chat", *flags])


def test_it_knows_the_capital_of_france_and_remembers_what_it_was_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NAME == SMOLLM2 == at_hand()
    assert piped(f"{CAPITAL}\nAnd of Italy?\n", monkeypatch=monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == "The capital of France is Paris.\nThe capital of Italy is Rome.\n"
    assert "loading model smollm2" in err and "untrained" not in err


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """`fastserve serve` without --model."""
    theirs = {name: value for name, value in os.environ.items() if name != "FASTSERVE_TRAINED_MODEL"}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    flags = ["--port", "0", "--state-dir", str(tmp_path), "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastserve", "serve", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd=tmp_path, env={**theirs, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    try:
        said = ""
        while not (found := re.search(r"serving at (http://\S+)", said)):
            line = process.stdout.readline()
            assert line, f"it did not start: {said}"
            said += line
        rest = threading.Thread(target=process.stdout.read)
        rest.start()
        assert said.startswith("loading model smollm2") and "untrained" not in said
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        rest.join()
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def test_it_is_what_is_served(server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(path: str, **body: Any) -> Any:
        return httpx.post(f"{server}{path}", json=body, timeout=PATIENCE).json()

    assert [model["id"] for model in httpx.get(f"{server}/v1/models").json()["data"]] == ["smollm2"]
    messages = [{"role": "user", "content": CAPITAL}]
    answer = ask("/v1/chat/completions", messages=messages, max_tokens=40)
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["choices"][0]["finish_reason"] == "stop", "a real end"
    burst = ask("/v1/completions", prompt=["The capital of Japan is", "Once upon a time"], max_tokens=12, stop=["."])
    assert burst["choices"][0]["text"] == " Tokyo" and burst["choices"][0]["finish_reason"] == "stop"
    about = json.loads(httpx.get(f"{server}/stats/detailed").text)["settings"]
    assert about["model"] == "smollm2" and about["dtype"] == "float32"
    capsys.readouterr()
    assert piped(f"{CAPITAL}\n", "--url", server, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
