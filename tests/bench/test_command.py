"""`fastserve bench` from end to end, against a stub."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.bench.stub import Behaviour
from fastserve.bench.target import TargetClient
from fastserve.workload.seeds import source_of
from tests.bench.conftest import Served

Serve = Callable[..., Served]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    rows = [(0.0, 5, 3, "ann"), (0.01, 9, 6, ""), (0.02, 2, 1, "bob")]
    lines = [
        json.dumps({"arrival_s": at, "prompt_tokens": prompt, "output_tokens": output, "client": client})
        for at, prompt, output, client in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def bench(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> dict[str, Any]:
    """The document of a run."""
    assert main(["bench", "--json", *map(str, words)]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_api_under_its_old_name(serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve()
    found = bench(capsys, "--url", served.url, "--backend", "native", "--trace", trace)
    assert found["endpoint_type"] == "native"


@pytest.mark.parametrize("api", ["openai", "openai-chat", "native", "nobatch"])
def test_a_trace_on_every_api(serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str], api: str) -> None:
    served = serve()
    found = bench(capsys, "--url", served.url, "--api", api, "--trace", trace)
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (3, 0, 10)
    assert found["from_arrival"]["completed"] == 3
    assert found["counts"] == {
        "output_tokens_by": "server",
        "wrong_outputs": 0,
        "wrong_prompts": 0,
        "preemptions_by": None if api.startswith("openai") else "server",
    }
    bodies = [seen.body for seen in served.stub.seen]
    assert [body.get("user") for body in bodies] == ["ann", None, "bob"]
    prompts = [body["messages"][0]["content"] if api == "openai-chat" else body["prompt"] for body in bodies]
    assert [len(prompt) for prompt in prompts] == [5, 9, 2]


def test_a_foreign_server_is_told_the_lengths_and_the_result_says_so(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    found = bench(capsys, "--url", served.url, "--trace", trace)
    assert [seen.body["max_tokens"] for seen in served.stub.seen] == [3, 6, 1]
    assert all(seen.body["ignore_eos"] for seen in served.stub.seen)
    assert "told" in found["settings"]["lengths"]
    assert found["settings"]["own_server"] is False


def test_our_scheduler_inside_vllm_is_told_guesses(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(owned_by="vllm")
    words = ["--url", served.url, "--trace", trace, "--predictor", "oracle"]
    bench(capsys, *words, "--vllm-xargs")
    told = [seen.body.get("vllm_xargs") for seen in served.stub.seen]
    assert told == [{"guess": 3, "client": "ann"}, {"guess": 6}, {"guess": 1, "client": "bob"}]
    bench(capsys, *words)
    assert not any("vllm_xargs" in seen.body for seen in served.stub.seen[3:]), "vLLM itself is not told"


def test_our_own_server_does_not_see_them(serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve(owned_by="fastserve")
    found = bench(capsys, "--url", served.url, "--trace", trace, "--predictor", "oracle")
    bodies = [seen.body for seen in served.stub.seen]
    assert [body["max_tokens"] for body in bodies] == [6, 6, 6]
    assert [body["stop_after"] for body in bodies] == [3, 6, 1]
    assert [body["guess"] for body in bodies] == [3, 6, 1]
    assert all(32 <= id < 225 for body in bodies for id in body["prompt"])  # its vocabulary has 257
    assert "hidden" in found["settings"]["lengths"]
    assert found["settings"]["max_tokens"] == 6
    assert found["total_output_tokens"] == 10


@pytest.mark.parametrize(("hide", "owner"), [("on", "vllm"), ("off", "fastserve")])
def test_hide_lengths_can_be_forced(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str], hide: str, owner: str
) -> None:
    served = serve(owned_by=owner)
    bench(capsys, "--url", served.url, "--trace", trace, "--hide-lengths", hide)
    assert all(("stop_after" in seen.body) is (hide == "on") for seen in served.stub.seen)


def test_closed_loop_says_so(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input-len", 3, "--output-len", 2, "--num-prompts", 12, "--max-concurrency", 3, "--num-warmups", 2]
    served = serve()
    found = bench(capsys, "--url", served.url, *words)
    assert (found["loop"], found["completed"], found["max_concurrency"]) == ("closed", 12, 3)
    assert found["max_concurrent_requests"] <= 3
    assert "slot" in found["arrival_is"]
    assert len(served.stub.seen) == 14


def test_failures_are_counted_saved_and_said(
    serve: Serve, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = [Behaviour(status=503), Behaviour(breaks_after=2), Behaviour(error_after=0)]
    served = serve(lambda number, body: ways[number])
    words = ["--url", served.url, "--trace", trace, "--save-detailed", "--result-dir", tmp_path / "out"]
    assert main(["bench", *map(str, [*words, "--result-filename", "run.json", "--metadata", "policy=mine"])]) == 1
    said = capsys.readouterr()
    assert "no request was completed" in said.err
    found = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (found["completed"], found["failed"], found["policy"]) == (0, 3, "mine")
    assert found["from_arrival"]["rejected"] == 1
    assert found["from_arrival"]["unfinished"] == 2
    assert [error[:8] for error in found["errors"]] == ["HTTP 503", "the serv", "the stub"]
    assert found["output_lens"] == [0, 2, 0]
    assert (tmp_path / "out" / "run.records.parquet").exists()


def test_headers_and_key(serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve()
    found = bench(capsys, "--url", served.url, "--trace", trace, "--header", "X-A=1=2", "--api-key", "sesame")
    assert served.stub.seen[0].headers["x-a"] == "1=2"
    assert served.stub.seen[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in json.dumps(found)


def test_seeds_resample_a_trace_as_the_simulator_does(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastserve.workload import read_trace

    served = serve()
    for words, how in (([], "blocks"), (["--resample", "pairs"], "pairs")):
        served.stub.seen.clear()
        bench(capsys, "--url", served.url, "--trace", trace, "--seed", 5, *words)
        expected = source_of(read_trace(trace), resample=how).trace(5).output.tolist()
        assert [seen.body["max_tokens"] for seen in served.stub.seen] == expected


def test_a_synthetic_workload_needs_no_file(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    served = serve()
    found = bench(
        capsys, "--url", served.url, "--synth", "n=4,rate=200,lengths=fixed:9,output=lognormal:2,1,1,30", "--seed", 2
    )
    drawn = source_of(None, "n=4,rate=200,lengths=fixed:9,output=lognormal:2,1,1,30").trace(2)
    assert [seen.body["max_tokens"] for seen in served.stub.seen] == drawn.output.tolist()
    assert found["settings"]["workload"] == "synthetic" and found["settings"]["source"] == drawn.source


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--dataset-name", "sharegpt"], "needs --dataset-path"),
        (["--trace", "x", "--dataset-name", "random"], "not both"),
        (["--trace", "x", "--synth", "rate=2"], "give one of the two"),
        (["--synth", "rat=2"], "no setting 'rat'"),
        (["--synth", "rate=2", "--lenient"], "--lenient is about reading a trace file"),
        (["--trace", "/nowhere"], "no such file"),
        (["--api", "openai-chat", "--prompts", "ids"], "takes text only"),
        (["--predictor", "psychic"], "no predictor"),
        (["--slo", "ttft=1s", "--goodput", "ttft:5"], "give one of them"),
        (["--slo", "itl=1s"], "there is no objective for single gaps"),
        (["--random-range-ratio", "2"], "below 1"),
    ],
)
def test_usage(serve: Serve, capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    assert main(["bench", "--url", serve().url, *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--goodput", "speed:3"],
        ["--goodput", "ttft:fast"],
        ["--request-rate", "0"],
        ["--percentile-metrics", "ttft,x"],
        ["--metric-percentiles", "101"],
        ["--token-ids", "9-5"],
        ["--extra-body", "[1]"],
        ["--header", "nothing"],
        ["--load", "0.8"],
    ],
)
def test_flags_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["bench", *words])
    assert exit.value.code == 2


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--url", "http://127.0.0.1:9"]) == 1
    assert "no connection to http://127.0.0.1:9" in capsys.readouterr().err


def test_an_unwritable_folder_is_found_before_the_run(
    serve: Serve, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve()
    words = ["--url", served.url, "--trace", trace, "--save-result", "--result-dir", trace / "sub"]
    assert main(["bench", *map(str, words)]) == 1
    assert "Cannot write" in capsys.readouterr().err
    assert not served.stub.seen


def test_probe(serve: Serve) -> None:
    own = TargetClient(serve(owned_by="fastserve", max_model_len=77).url).probe()
    assert (own.own, own.models, own.max_model_len, own.vocab_size) == (True, ("stub",), 77, 257)
    assert not TargetClient(serve().url).probe().own


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_saves_what_is_finished(serve: Serve, tmp_path: Path) -> None:
    """Two answers, one that never comes, one due in an hour; Ctrl-C comes after the third."""
    lines = [{"arrival_s": at, "prompt_tokens": 3, "output_tokens": 2} for at in (0, 0, 0, 3600)]
    trace = tmp_path / "t.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)))

    def answer(number: int, body: dict[str, Any]) -> Behaviour:
        return Behaviour(hangs=number == 2)

    served = serve(answer)
    words = ["--url", served.url, "--trace", str(trace), "--save-result", "--result-dir", str(tmp_path), "--json"]
    command = [sys.executable, "-m", "fastserve", "bench", *words, "--result-filename", "run.json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (len(served.stub.seen) == 3 and sum(seen.left for seen in served.stub.seen) == 1):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads((tmp_path / "run.json").read_text())
    assert json.loads(out) == found
    assert (found["interrupted"], found["completed"], found["failed"], found["not_sent"]) == (True, 2, 1, 1)
    assert "2 of 4 requests were completed" in err
    assert (tmp_path / "run.records.parquet").exists()
