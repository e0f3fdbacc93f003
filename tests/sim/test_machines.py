"""python -m sim.machines: every machine is listed and shown, and a made file is one that --latency takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastserve.hardware import RooflineLatency, load_hardware, presets
from fastserve.hardware.catalogue import read_catalogue
from fastserve.hardware.points import fit_points, point_ms, read_points
from sim.__main__ import main as sim
from sim.machines.command import main

POINTS = """ms,phase,note,batch,tokens
72.2,prefill,a,1,512
130.0,prefill,b,1,1024
257.0,prefill,c,1,2048
20.3,decode,,1,512
25.7,decode,,16,512
43.0,decode,,64,512
60.1,decode,,64,920
"""


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def document(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_everything_is_listed_with_what_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    found, text = document(capsys, "list"), said(capsys, "list", "--sources")
    catalogue = read_catalogue()
    assert list(found["models"]) == list(catalogue.models) and list(found["devices"]) == list(catalogue.accelerators)
    assert list(found["presets"]) == list(presets())
    for part in ("models", "devices"):
        for name, one in found[part].items():
            assert one["source"] and f"{name}: {one['source']}" in text
    for name, one in found["presets"].items():
        assert one["provenance"] in text and one["about"] in text and name in text
    assert sim(["machines", "list"]) == 0 and capsys.readouterr().out == said(capsys, "list")


@pytest.mark.parametrize("name", [*presets(), "roofline:gpt-oss-120b/h100", "roofline:llama-3.3-70b/h100*8"])
def test_any_machine_is_shown_with_the_times_that_it_has(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "show", name, "--context", "300", "--batch", "1,16")
    hardware = load_hardware(name)
    latency, tokens = hardware.latency, hardware.memory.device_tokens
    assert [one["ms"] for one in found["decode"]] == [latency.iteration_ps(n, 300 * n, ()) / 1e9 for n in (1, 16)]
    for one in found["prefill"]:
        assert one["ms"] == latency.iteration_ps(0, 0, ((0, one["tokens"]),)) / 1e9
    assert found["memory"]["device_tokens"] == tokens and found["link"]["duplex"] == hardware.link.duplex
    full = found["saturated"]
    assert full["batch"] == (256 if tokens is None else tokens // 300)
    assert full["tokens_per_s"] == pytest.approx(
        full["batch"] * 1e12 / latency.iteration_ps(full["batch"], full["batch"] * 300, ())
    )
    assert isinstance(latency, RooflineLatency) is ("sizes" in found)
    text = said(capsys, "show", name, "--context", "300", "--batch", "1,16")
    assert name in text and f"{full['tokens_per_s']:,.0f} tokens/s" in text


def test_more_than_the_pool_holds_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", "opt-66b-a100-tp2", "--context", "1000", "--batch", "1,64")
    assert "64 *" in text and "more than the pool holds" in text


def test_a_made_file_is_the_catalogue_s_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    said(capsys, "make", str(path), "--model", "qwen3-32b", "--device", "h100", "--tp", "4")
    made, known = load_hardware(path), load_hardware("roofline:qwen3-32b/h100*4")
    assert (made.memory, made.link, made.context) == (known.memory, known.link, known.context)
    work = (9, 9000, ((0, 500),))
    assert made.latency.iteration_ps(*work) == known.latency.iteration_ps(*work)
    assert made.name == "mine" and "Qwen/Qwen3-32B" in made.provenance and "NVIDIA H100" in made.provenance
    assert sim(["--synth", "n=20,rate=1", "--latency", str(path), "--policy", "fcfs"]) == 0


def test_flags_change_a_device_or_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    flags = [
        "--flops",
        "1e14",
        "--bandwidth",
        "1e12",
        "--device-memory",
        "48e9",
        "--link",
        "5e9",
        "--host-memory",
        "1e9",
    ]
    reached = [
        "--compute-efficiency",
        "1",
        "--memory-efficiency",
        "0.5",
        "--overhead-ms",
        "0",
        "--layer-overhead-us",
        "10",
    ]
    said(capsys, "make", str(path), "--model", "llama-3-8b", *flags, *reached, "--name", "own", "--kv-tokens", "1600")
    made = load_hardware(path)
    assert (made.name, made.memory.device_tokens, made.memory.host_bytes) == ("own", 1600, 10**9)
    assert made.link.out_bytes_per_s == made.link.in_bytes_per_s == 5 * 10**9
    assert isinstance(made.latency, RooflineLatency)
    weights = made.latency.model.layer_parameters + made.latency.model.head_parameters
    wanted = 32 * 0.01 + 2 * (weights * 2 + 2 * 131072) / 1e12 * 1e3
    assert made.latency.iteration_ps(1, 1, ()) / 1e9 == pytest.approx(wanted, rel=1e-6)
    group = ["--device", "h100*2", "--all-reduce-us", "100", "--interconnect", "1e11", "--fp8-flops", "0"]
    said(capsys, "make", str(path), "--model", "llama-3-8b", *group, "--weight-bits", "8")
    made = load_hardware(path)
    assert isinstance(made.latency, RooflineLatency) and made.latency.interconnect is not None
    assert made.latency.devices == 2 and made.latency.device.fp8_flops_per_s == 0
    assert made.latency.reduces_ms(0) == pytest.approx(64 * 0.1)
    assert made.latency.interconnect.bytes_per_s == 1e11


def test_measured_points_are_fitted_and_the_misses_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured, path = tmp_path / "measured.csv", tmp_path / "mine.json"
    measured.write_text(POINTS)
    assert main(["make", str(path), "--points", str(measured), "--model", "opt-13b", "--device", "a100-80g"]) == 0
    errors = capsys.readouterr().err
    assert "prefill: 3 points, missed by" in errors and "decode: 4 points, missed by" in errors
    made = load_hardware(path)
    points = read_points(measured)
    latency, misses = fit_points(points, "mine")
    for point in points:
        assert point_ms(latency, point) == pytest.approx(point.ms, rel=0.03)
    assert misses["prefill"].points == 3 and misses["decode"].worst < 0.03
    assert made.latency.iteration_ps(16, 16 * 512, ()) == latency.iteration_ps(16, 16 * 512, ())
    assert made.memory == load_hardware("roofline:opt-13b/a100-80g").memory
    assert main(["make", str(path), "--points", str(measured), "--kv-tokens", "3200"]) == 0
    assert load_hardware(path).memory.device_tokens == 3200


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["show", "nope"], "no latency preset and no file is called 'nope'"),
        (["show", "roofline:llama-3-8b/abacus"], "no roofline for the device 'abacus'"),
        (["show", "opt-13b-a100", "--batch", "1,x"], "--batch 1,x: give whole numbers"),
        (["show", "opt-13b-a100", "--context", "0"], "--context 0: give at least 1"),
        (["make", "OUT"], "which model? give --config FILE"),
        (["make", "OUT", "--model", "llama-3-8b"], "which device? give --device NAME"),
        (["make", "OUT", "--model", "llama", "--device", "h100"], "--model llama: not in the catalogue"),
        (
            ["make", "OUT", "--model", "llama-3-8b", "--device", "h1"],
            "--device h1: not in the catalogue; devices: a100",
        ),
        (["make", "OUT", "--model", "llama-3-8b", "--flops", "1e12"], "wants --bandwidth, --device-memory too"),
        (["make", "OUT", "--model", "llama-3.1-405b", "--device", "h100*8"], "does not fit h100*8"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100*2", "--tp", "4"], "say two things"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--tp", "0"], "--tp 0: give at least 1"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "apple-m3-max", "--tp", "2"], "nothing is known of what"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--link", "0"], "--link must be above 0"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--memory-efficiency", "2"], "share of the peak"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--expert-bits", "4"], "has no experts"),
        (["make", "OUT", "--device", "h100", "--weight-bits", "4"], "--weight-bits says what"),
        (["make", "OUT", "--points", "POINTS", "--flops", "1"], "--flops has no use beside --points"),
        (["make", "OUT", "--points", "absent.csv"], "absent.csv"),
        (
            ["make", "OUT", "--config", "absent.json", "--device", "h100"],
            "--config absent.json: there is no file absent.json",
        ),
        (["show", "roofline:config.json/h100*4"], "make mine.json --config config.json --device h100*4"),
        (["show", "roofline:./config.json/h100"], "make mine.json --config config.json --device h100,"),
        (["make", "OUT", "--config", "POINTS", "--device", "h100"], "is not a JSON file"),
        (["make", "OUT", "--config", "/dev/zero", "--device", "h100"], "it has more than 64 MiB"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--flops", "989"], "such as 989e12"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--bandwidth", "3350"], "3350 bytes a second"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100*8", "--interconnect", "450"], "450 bytes a second"),
        (["make", "OUT", "--model", "llama-3-8b", "--device", "h100", "--device-memory", "80"], "80 bytes, less than"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("POINTS").write_text(POINTS)
    assert main(words) == 2
    said = capsys.readouterr()
    assert why in said.err and said.err.count("\n") == 1 and not said.out
    assert not Path("OUT").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("phase,batch\nprefill,1\n", "no column tokens, ms"),
        ("phase,batch,tokens,ms\nwarm,1,2,3\n", "line 2: phase is prefill or decode, got 'warm'"),
        ("phase,batch,tokens,ms\nprefill,1,two,3\n", "line 2: batch and tokens are whole numbers"),
        ("phase,batch,tokens,ms\nprefill,1,2\n", "line 2: batch and tokens are whole numbers"),
        ("phase,batch,tokens,ms\nprefill,1,2,-3\n", "line 2: .*ms is above 0"),
        ("phase,batch,tokens,ms\nprefill,1,1" + "0" * 400 + ",3\n", "line 2: batch and tokens are from 1 to 1e"),
        ("phase,batch,tokens,ms\nprefill,1,2,nan\n", "line 2: .*ms is above 0"),
        ("phase,batch,tokens,ms\nprefill,1,2,3\nprefill,1,4,5\ndecode,1,1,1\n", "1 decode points are too few"),
        ("", "no column phase"),
    ],
)
def test_points_that_are_none_are_named(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        fit_points(read_points(path), "mine")
