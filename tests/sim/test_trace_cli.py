"""python -m sim.trace: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sim
from fastserve.workload import read_trace
from sim.__main__ import main as replay_main
from sim.trace import main

CHECKOUT = Path(__file__).parents[2]
BUNDLED = CHECKOUT / "traces" / "azure-conv-like.jsonl"


@pytest.mark.parametrize(("name", "most"), [("azure-conv-like", 120_000), ("agents-like", 400_000)])
def test_the_documented_command_makes_the_bundled_trace_byte_for_byte(name: str, most: int, tmp_path: Path) -> None:
    command = next(
        line.split()
        for line in (CHECKOUT / "traces" / "README.md").read_text().splitlines()
        if f"synthesise traces/{name}" in line
    )
    assert command[:4] == ["python", "-m", "sim.trace", "synthesise"]
    bundled = CHECKOUT / "traces" / f"{name}.jsonl"
    assert command[4] == f"traces/{bundled.name}"
    made = tmp_path / "made.jsonl"
    assert main(["synthesise", str(made), *command[5:]]) == 0
    assert made.read_bytes() == bundled.read_bytes()
    assert bundled.stat().st_size < most


def test_agents_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay_main(["describe", str(CHECKOUT / "traces" / "agents-like.jsonl")]) == 0
    page = capsys.readouterr().out
    assert re.search(r"programs +36\n +turns +24 +18 +40", page)
    assert re.search(r"think, s +34\.5 +7\.7", page)
    assert "17 forks, 17 joins; tools edit 191, read 186" in page
    assert "an unlimited prefix cache would find 94.7 % of the prompt tokens" in page
    assert main(["synthesise", "-", "--synth", "agents:"]) == 0
    assert main(["synthesise", "-", "--synth", "agents:", "--rate", "3"]) == 2
    assert main(["synthesise", "-"]) == 2
    assert "give --rate R" in capsys.readouterr().err


def test_describe_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(BUNDLED)]) == 0
    page = capsys.readouterr().out
    assert re.search(r"requests +1,000 in 185\.3 s, 5\.392 requests/s", page)
    assert re.search(r"CV 1\.06, D\(10\) 0\.8", page)
    assert re.search(r"prompt +1,147 +1,020 +2,947 +4,117 +5,660", page)
    assert "dropped      none" in page


def test_describe_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--json", "--num-requests", "1", str(BUNDLED)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["n"] == 1
    assert found["rate_rps"] is None
    assert found["dispersion_10s"] is None


def test_convert_rescale_and_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["rescale", str(BUNDLED), str(out), "--rate", "2", "--from", "10", "--for", "60"]) == 0
    trace = read_trace(out)
    assert trace.rate == pytest.approx(2.0)
    assert trace.digest() == read_trace(BUNDLED).window(10, 60).with_rate(2).digest()
    assert main(["convert", str(BUNDLED), str(out), "--format", "mooncake", "--num-prompts", "5"]) == 0
    assert read_trace(out).prompt.tolist() == read_trace(BUNDLED).head(5).prompt.tolist()
    capsys.readouterr()
    assert main(["convert", str(BUNDLED), "-", "--num-requests", "2"]) == 0
    assert capsys.readouterr().out == "".join(BUNDLED.read_text().splitlines(keepends=True)[:2])


def test_dropped_rows_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("t,in,out\n0,1,1\n1,-1,1\n2,3,3\n3,4,0\n4,0,2\n" + "".join(f"{t},2,2\n" for t in range(5, 90)))
    assert main(["describe", "--lenient", str(bad)]) == 0
    assert "1 negative, 2 zero" in capsys.readouterr().out
    assert main(["describe", str(bad)]) == 2
    assert f"{bad}:3: prompt tokens: -1 is negative" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["describe"],
        ["describe", "absent.csv"],
        ["describe", str(BUNDLED), "--rate", "-1"],
        ["describe", str(BUNDLED), "--from", "1e9"],
        ["describe", str(BUNDLED), "--from", "inf"],
        ["describe", str(BUNDLED), "--for", "inf"],
        ["describe", str(BUNDLED), "--num-requests", "0"],
        ["convert", str(BUNDLED), "out", "--format", "parquet"],
        ["convert", str(BUNDLED), "/absent/folder/out"],
        ["rescale", str(BUNDLED), "out"],
        ["synthesise", "out", "--rate", "1", "--arrivals", "nonsense"],
        ["synthesise", "out", "--rate", "1", "--lengths", "profile:nonsense"],
        ["synthesise", "out", "--rate", "1", "--seed", "-1"],
    ],
)
def test_an_error_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = leaving.code  # type: ignore[assignment]
    caught = capsys.readouterr()
    assert code == 2
    assert caught.out == ""
    assert len(caught.err.splitlines()) == 1


def test_it_runs_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "sim.trace", "describe", "absent.csv"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (2, "", "absent.csv: no such file\n")


def test_what_was_read_is_on_the_page_and_in_the_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ts,in,out,guess,model\n" + "".join(f"{250 * i},{900 * (i + 1)},9,{i + 1},m\n" for i in range(10)))
    assert main(["describe", str(path)]) == 2
    assert "as ms it makes 4 requests/s. Say which it is: --time-unit ms" in capsys.readouterr().err
    assert main(["describe", str(path), "--time-unit", "ms", "--latency", "opt-13b-a100"]) == 0
    page = capsys.readouterr().out
    assert re.search(
        r"read +arrival = ts \(ms, --time-unit says so; counted from the first request\), prompt = in", page
    )
    assert re.search(r"ignored +model\n", page)
    assert "8 of 10 requests are longer than the context of opt-13b-a100's model, 2,048 tokens" in page
    assert (
        main(["describe", str(path), "--time-unit", "ms", "--json", "--latency", "roofline:llama-3-8b/a100-80g"]) == 0
    )
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["context"], found["beyond_context"]) == (8192, 1)
    assert found["reading"]["columns"]["guess"] == "guess"
    assert found["reading"]["ignored"] == {"model": ""}
    assert main(["describe", str(path), "--time-unit", "ms", "--latency", "abacus"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_replay_says_first_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    row = '{"timestamp": %d, "input_length": 90, "output_length": 9, "guess": %d, "hash_ids": [1]}\n'
    path.write_text("".join(row % (250 * i, 12 - i) for i in range(10)))
    assert replay_main([str(path), "--policy", "sjf", "--predictor", "trace", "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("prefix cache off: the trace has block ids but names no programs")
    assert "mine: read arrival = timestamp (ms, as Mooncake files have (whole numbers); counted from" in shown
    assert "hash_ids = hash_ids (blocks of 512 tokens)" in " ".join(shown.split())
    assert "sjf (trace)" in shown
    assert replay_main([str(path), "--policy", "sjf", "--predictor", "trace", "--json", "--processes", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["reading"][0].startswith("mine: read arrival")
    assert replay_main([str(BUNDLED), "--policy", "sjf", "--predictor", "trace", "--num-requests", "5"]) == 2
    assert "the trace has no column of guesses" in capsys.readouterr().err


def test_guesses_of_the_trace_order_the_jobs(tmp_path: Path) -> None:
    """One slot: whoever is guessed the shortest goes first, whatever its true length."""
    path = tmp_path / "mine.jsonl"
    row = '{"arrival_s": 0, "prompt_tokens": 1, "output_tokens": %d, "guess": %d}\n'
    path.write_text(row % (5, 1) + row % (1, 3) + row % (9, 2))
    records = sim.replay(path, "sjf", predictor="trace", max_batch=1, processes=1).runs[0].records
    assert np.argsort(records["end"]).tolist() == [0, 2, 1]
    oracle = sim.replay(path, "sjf", max_batch=1, processes=1).runs[0].records
    assert np.argsort(oracle["end"]).tolist() == [1, 0, 2]
