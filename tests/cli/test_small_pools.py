"""A pool of none, one block, one slot, or more than there is, in every command: it works, or one line says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.__main__ import main
from fastserve.launch import Body
from fastserve.profiler.calibrate import fit_link

pytest.importorskip("pydantic_settings")
np = pytest.importorskip("numpy")

SETTINGS: dict[str, tuple[list[str], bool]] = {
    "no pool": (["--kv-tokens", "0"], False),
    "less than a block": (["--kv-tokens", "15"], False),
    "one block": (["--kv-tokens", "16"], True),
    "one block, no host": (["--kv-tokens", "16", "--host-tokens", "0"], True),
    "one block each": (["--kv-tokens", "16", "--host-tokens", "16"], True),
    "one block each, recompute": (["--kv-tokens", "16", "--host-tokens", "16", "--residency", "recompute"], True),
    "no host": (["--host-tokens", "0"], True),
    "less than a host block": (["--host-tokens", "1"], True),
    "one host block": (["--host-tokens", "16"], True),
    "a negative host": (["--host-tokens", "-16"], False),
    "no slot": (["--max-batch", "0"], False),
    "one slot": (["--max-batch", "1"], True),
    "one slot, one block": (["--max-batch", "1", "--kv-tokens", "16", "--host-tokens", "0"], True),
    "blocks of one token": (["--block-tokens", "1", "--kv-tokens", "8"], True),
    "blocks of none": (["--block-tokens", "0"], False),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("trace") / "tiny.jsonl"
    rows = [{"timestamp": i * 0.01, "prompt_tokens": 4, "output_tokens": 3} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def simulate(argv: list[str]) -> int:
    simulator = pytest.importorskip("sim.__main__")
    return int(simulator.main(argv) or 0)


def generate(argv: list[str]) -> int:
    return main(["generate", "--backend", "scripted", "--max-tokens", "3", "--prompt", "hi", "--prompt", "ho", *argv])


def check(run: Callable[[list[str]], int], argv: list[str], fine: bool, capsys: Any) -> str:
    capsys.readouterr()
    try:
        code = run(argv)
    except SystemExit as end:
        code = int(end.code or 0) if not isinstance(end.code, str) else 2
    told = capsys.readouterr()
    assert code == (0 if fine else 2), told.err
    if not fine:
        assert len([line for line in told.err.splitlines() if "error" in line or "sim:" in line]) <= 1
        assert "Traceback" not in told.err
    return str(told.out + told.err)


@pytest.mark.parametrize("name", SETTINGS)
def test_generate(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, fine = SETTINGS[name]
    check(generate, argv, fine, capsys)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_simulator(name: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, fine = SETTINGS[name]
    check(simulate, [trace, "--policy", "fcfs", "--policy", "sj-mlfq", *argv], fine, capsys)


@pytest.mark.parametrize("name", SETTINGS)
def test_serve(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from fastserve.engine import SamplingParams
    from fastserve.server.config.settings import FastServeConfig
    from fastserve.server.run import make_engine

    argv, fine = SETTINGS[name]
    given: dict[str, Any] = {
        flag[2:].replace("-", "_"): value for flag, value in zip(argv[::2], argv[1::2], strict=True)
    }
    if not fine:
        with pytest.raises(ValueError, match=r"tokens|max_batch"):
            make_engine(FastServeConfig(backend="scripted", **given))
        return
    with make_engine(FastServeConfig(backend="scripted", **given)) as engine:
        outputs = engine.generate(["hi", "ho"], SamplingParams(max_tokens=3, ignore_eos=True))
    assert [len(output.token_ids) for output in outputs] == [3, 3]


def profile(argv: list[str]) -> int:
    return main(["profile", "--budget", "0.01", "--no-store", "--native", "off", "--threads", "1", *argv])


@pytest.mark.parametrize(
    "name", ["no pool", "one block, no host", "one block each", "no host", "one host block", "no slot", "one slot"]
)
def test_profile(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    argv, fine = SETTINGS[name]
    if "--kv-tokens" not in argv:
        argv = [*argv, "--kv-tokens", "256"]
    said = check(profile, argv, fine, capsys)
    if fine:
        assert ("copies: not measured, there is no host pool" in said) == ("no host" in name)


def test_what_is_too_short_to_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    for argv in (["--block-tokens", "1", "--kv-tokens", "2"], ["--max-model-len", "2"]):
        assert "2 tokens, and 3 are the fewest that can be measured" in check(profile, argv, False, capsys)
    for longest in ("0", "2"):
        said = check(profile, ["--longest", longest], False, capsys)
        assert f"--longest {longest}: give tokens, at least 3" in said


def test_more_than_there_is_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from fastserve.engine.config import EngineConfig

    body = Body("embedded", native="off", threads=1)
    for pools in ({"kv_tokens": 10**12}, {"host_tokens": 10**12}, {"kv_tokens": 10**11, "host_tokens": 10**11}):
        with pytest.raises(ValueError, match=r"KV pools of [\d,]+ tokens and [\d,]+ on the host take .* GiB are free:"):
            body.backend(EngineConfig(**pools))


def test_a_link_of_copies_of_one_size() -> None:
    from fastserve.engine.backend import CopyTime
    from fastserve.hardware import Link

    link = fit_link([CopyTime(True, 1000, 1e-6), CopyTime(False, 1000, 2e-6)])
    assert (link.out_bytes_per_s, link.in_bytes_per_s, link.latency_ns) == (10**9, 5 * 10**8, 0)
    assert fit_link([]) == Link()
