"""`fastserve generate` and `fastserve check --live`."""

import io
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fastserve.__main__ import main
from fastserve.engine import Engine, SamplingParams
from fastserve.policies import POLICIES
from tests.backends.torch.families import write, write_config

pytestmark = pytest.mark.usefixtures("one_thread")
FAST = ["--latency", "opt-13b-a100", "--dtype", "float32", "--max-tokens", "8"]


def test_text_comes_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "Hello", "--temperature", "0", *FAST]) == 0
    out, err = capsys.readouterr()
    assert 1 < len(out) <= 9
    assert "embedded" in err
    assert "sj-mlfq" in err
    with Engine.from_pretrained("embedded", latency="opt-13b-a100", dtype="float32") as engine:
        assert f"{engine.generate('Hello', SamplingParams(max_tokens=8, temperature=0))[0].text}\n" == out


def test_several_prompts_from_stdin_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    assert main(["generate", "--json", "--policy", "las", "--set", "quantum=0.01", *FAST]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt_tokens"] for line in lines] == [3, 3]
    assert all(line["record"]["output_tokens"] == len(line["token_ids"]) for line in lines)
    assert all(line["record"]["ttft_slo"] is None for line in lines)


def test_token_ids_where_there_is_no_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "llama")
    model = ["generate", "--model", str(tmp_path), *FAST]
    assert main([*model, "--token-ids", "--prompt", "1, 2 3"]) == 0
    assert len(capsys.readouterr().out.split()) == 8
    assert main([*model, "--prompt", "text"]) == 2
    assert "has no tokenizer: give the prompt as a list of token ids" in capsys.readouterr().err
    assert main([*model, "--token-ids", "--prompt", "1 x"]) == 2
    assert "is not a list of token ids" in capsys.readouterr().err
    assert main([*model, "--chat", "--prompt", "x"]) == 2
    assert "has no chat template" in capsys.readouterr().err


def test_random_weights_for_a_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, "llama")
    arguments = ["--model", str(tmp_path), "--load-format", "dummy", "--token-ids", "--prompt", "5", *FAST]
    assert main(["generate", *arguments]) == 0
    assert len(capsys.readouterr().out.split()) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "nonsense"], "no policy 'nonsense'"),
        (["--policy", "srpt"], "policy srpt needs a guess"),
        (["--set", "quantum"], "write it as KEY=VALUE"),
        (["--temperature", "-1"], "temperature=-1.0 must be"),
        (["--model", "/no/such/folder"], "There is no folder /no/such/folder"),
        (["--latency", "nonsense"], "no latency preset"),
        (["--device", "abacus"], "device='abacus' is unknown"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--prompt", "x", *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("fastserve generate: error: ")
    assert message in err[-1]


@pytest.mark.parametrize("policy", ["sj-mlfq", "srpt"])
def test_a_policy_is_tried_on_the_live_engine(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert policy in POLICIES
    assert main(["check", policy, "--quick", "--live"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "on the live engine: 16 requests" in last
    assert "tokens as undisturbed" in last


def test_a_policy_that_breaks_on_the_live_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve.engine.trial import live_trial
    from fastserve.sched.conformance.errors import ConformanceError
    from fastserve.sched.job import Job
    from fastserve.sched.policy import Policy

    class Late(Policy):
        def rank(self, job: Job) -> int:
            if job.generated == 30:
                raise ValueError("too many")
            return job.arrival

    with pytest.raises(ConformanceError, match=r"on the live engine: policy Late, rank\(\) of job"):
        live_trial(Late)


BODIES = """
from fastserve.backends.scripted import ScriptedBackend

class Broken(ScriptedBackend):
    def run(self, plan):
        raise KeyError("no such device")

class Small(ScriptedBackend):
    def run(self, plan):
        if self.machine.memory.device_tokens == 320:  # the trial's short pool
            raise KeyError("no such device")
        return super().run(plan)
"""


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("Broken", 2, "--live: backend .*Broken fails request 0 undisturbed, under fcfs: KeyError: 'no such device'"),
        ("Small", 1, "on the live engine, request 0 under Fcfs failed: KeyError: 'no such device'"),
        ("Missing", 2, "--live: backend .*has no Missing"),
    ],
)
def test_a_trial_on_a_body_that_fails_is_no_success(
    body: str, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bodies.py").write_text(BODIES)
    assert main(["check", "fcfs", "--quick", "--live", "--backend", f"{tmp_path}/bodies.py:{body}"]) == status
    told = capsys.readouterr()
    assert re.search(words, told.out + told.err)
    assert "tokens as undisturbed" not in told.out


def test_an_output_that_outgrew_the_pool_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--backend", "scripted", "--kv-tokens", "64", "--prompt", "x" * 40, "--ignore-eos"]
    assert main([*command, "--max-tokens", "100"]) == 0
    assert "truncated after 25 tokens: it outgrew the KV pool; give more --kv-tokens" in capsys.readouterr().err
    assert main([*command, "--max-tokens", "25"]) == 0
    assert "truncated" not in capsys.readouterr().err
