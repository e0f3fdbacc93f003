"""--backend: the body, by one word in every command that has an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastserve.__main__ import main

TRACE = "\n".join(json.dumps({"arrival_s": i / 100, "prompt_tokens": 5, "output_tokens": 3}) for i in range(4))


def test_generate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--backend", "scripted", "--prompt", "hello", "--max-tokens", "4", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["backend"], len(found["token_ids"])) == ("scripted", 4)
    assert captured.err.startswith(
        "starting a scripted engine with policy sj-mlfq: modelled times, no model\nscripted on scripted, policy sj-mlfq"
    )


def test_the_environment_chooses_where_no_flag_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSERVE_BACKEND", "scripted")
    assert main(["generate", "--prompt", "hello", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backend"] == "scripted"


def test_a_setting_that_the_body_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--backend", "scripted", "--prompt", "x", "--dtype", "float32"]) == 2
    assert "backend scripted has no setting 'dtype'; it has max_model_len" in capsys.readouterr().err


def test_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--backend", "vllm", "--prompt", "x"])
    told = capsys.readouterr().err
    assert "no backend is called 'vllm': give torch, llamacpp, onnx, upstream, scripted, or one of your own" in told


def test_check_live(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "las", "--quick", "--live", "--backend", "scripted"]) == 0
    assert "on the live engine: 16 requests" in capsys.readouterr().out


def test_a_body_whose_times_are_given_is_not_profiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--backend", "scripted", "--budget", "1"]) == 2
    assert "backend scripted cannot be profiled" in capsys.readouterr().err


def test_ab_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(TRACE + "\n")
    words = ["ab", "--trace", str(file), "--offline", "--backend", "scripted", "--rounds", "1", "--json",
             "--policy", "fcfs", "--policy", "las"]  # fmt: skip
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["backend"] == "scripted"
    assert found["format"] == "comparison/1"


def test_a_body_of_ones_own_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from fastserve.backends.scripted import ScriptedBackend\n"
        "class Mine(ScriptedBackend):\n"
        "    def __init__(self, model, wanted=None, hardware=None):\n"
        "        super().__init__(model, wanted, hardware)\n"
        "        self.info = replace(self.info, name=model, backend='mine')\n"
    )
    words = ["generate", "--backend", f"{file}:Mine", "--model", "m", "--prompt", "x", "--max-tokens", "2", "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["backend"] == "mine"
    assert "m on mine, policy" in captured.err


@pytest.mark.parametrize("words", [["--backend", "pytorch"], ["--backend-type", "torch"], []])
def test_serve(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydantic_settings")
    assert main(["serve", "--show-config", *words]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["backend", "torch"] in [line[:2] for line in lines]


def test_a_body_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "class Bad:\n    def __init__(self, model, wanted, hardware):\n        {}['key']\n"
    methods = "".join(
        f"    def {name}(self, *_): ...\n" for name in ("hardware", "admit", "run", "forget", "reset", "close")
    )
    (tmp_path / "bad.py").write_text(source + methods)
    assert main(["generate", "--backend", f"{tmp_path}/bad.py:Bad", "--prompt", "x"]) == 2
    assert "bad.py:Bad cannot be made: KeyError: 'key'" in capsys.readouterr().err
