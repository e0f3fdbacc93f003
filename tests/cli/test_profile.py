"""`fastserve profile`: the fit, the measure and what is said of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fastserve.__main__ import main
from fastserve.cli.profile import warnings
from fastserve.engine import Engine
from fastserve.hardware import DecodePiece, LinearLatency, PrefillFit, hardware_from_json
from fastserve.profiler.calibrate import CopyTime, fit_link
from fastserve.profiler.fit import Iteration, cells_of, fit_latency, predict_ms, residuals
from fastserve.profiler.load import Meter, measure, phases


def shapes(seed: int = 0) -> list[tuple[int, int, int, int]]:
    """(batch, context, tokens, squared) of decodes, prefills and mixed iterations."""
    rng = random.Random(seed)
    found = []
    for _ in range(400):
        batch, tokens = rng.choice([0, 1, 2, 4, 8]), rng.choice([0, 16, 60, 250, 512])
        if batch or tokens:
            found.append((batch, batch * rng.randint(10, 600), tokens, tokens * tokens))
    return found


def timed(latency: LinearLatency) -> list[Iteration]:
    return [Iteration(*shape, predict_ms(latency, Iteration(*shape, 0.0))) for shape in shapes()]


@pytest.mark.parametrize("prefill_ms", [2.0, 9.0])
def test_the_fit_finds_the_coefficients_of_a_linear_machine(prefill_ms: float) -> None:
    """Whichever of the two constants a mixed iteration pays."""
    truth = LinearLatency(PrefillFit(prefill_ms, 0.4, 3e-4), [DecodePiece(1, 5.0, 0.25, 0.004)])
    found = fit_latency(cells_of(timed(truth)), "found")
    assert found.prefill.ms == pytest.approx(prefill_ms, rel=1e-3)
    assert found.prefill.ms_per_token == pytest.approx(0.4, rel=1e-3)
    assert found.prefill.ms_per_squared_token == pytest.approx(3e-4, rel=1e-3)
    assert len(found.decode) == 1
    assert found.decode[0].ms == pytest.approx(5.0, rel=1e-3)
    assert found.decode[0].ms_per_context_token == pytest.approx(0.004, rel=1e-3)


def test_a_decode_that_is_no_straight_line_in_the_batch_is_fitted_size_by_size() -> None:
    """A machine whose products come in tiles: 5 ms up to four sequences, 11 ms above."""
    tiles = [DecodePiece(1, 5.0, 0.0, 0.001), DecodePiece(5, 11.0, 0.0, 0.001)]
    truth = LinearLatency(PrefillFit(4.0, 0.4, 0.0), tiles)
    cells = cells_of(timed(truth))
    found = fit_latency(cells, "found")
    for batch, ms in ((1, 5.1), (2, 5.1), (4, 5.1), (8, 11.1)):
        assert predict_ms(found, Iteration(batch, 100, 0, 0, 0.0)) == pytest.approx(ms, rel=0.02)
    times = [found.iteration_ps(batch, 100, ()) for batch in range(1, 12)]
    assert times == sorted(times)


def test_hiccups_count_in_the_mean_and_show_as_noise() -> None:
    truth = LinearLatency(PrefillFit(4.0, 0.4, 0.0), [DecodePiece(1, 5.0, 0.2, 0.0)])
    calm = [one for one in timed(truth) for _ in range(5)]
    rough = [one._replace(ms=one.ms * (2.0 if i % 5 == 0 else 1.0)) for i, one in enumerate(calm)]
    cells = cells_of(rough)
    found = fit_latency(cells, "found")
    assert predict_ms(found, Iteration(4, 100, 0, 0, 0.0)) == pytest.approx(5.8 * 1.2, rel=0.03)
    assert residuals(cells, found)["decode"].noise > 0.2
    assert residuals(cells_of(calm), truth)["decode"].noise < 0.1


def test_without_prefills_there_is_no_model() -> None:
    with pytest.raises(ValueError, match="measure for longer"):
        fit_latency(cells_of([Iteration(1, 10, 0, 0, 5.0)] * 20), "found")


def test_whole_iterations_of_an_engine_give_its_own_model_back() -> None:
    """The scripted engine takes exactly the modelled time for each iteration."""
    with Engine.scripted(policy="fcfs", max_batch=8, latency="opt-13b-a100") as engine:
        cells = cells_of(measure(engine, 0.2, longest=600))
        truth = engine.hardware.latency
    assert {cell.kind for cell in cells} == {"prefill", "decode", "mixed"}
    found = fit_latency(cells, "found")
    for shape in ((0, 0, 256, 256**2), (1, 200, 0, 0), (8, 1600, 0, 0), (4, 800, 300, 300**2)):
        one = Iteration(*shape, 0.0)
        assert predict_ms(found, one) == pytest.approx(predict_ms(truth, one), rel=0.03)


def test_the_meter_notes_every_iteration_with_its_shape() -> None:
    from fastserve.engine import SamplingParams

    with Engine.scripted(policy="fcfs", max_batch=2, token_budget=64) as engine:
        meter = Meter.attach(engine)
        engine.generate([[65] * 100], SamplingParams(max_tokens=3, stop_after=3))
        noted = meter.iterations()
    assert [(one.batch, one.tokens, one.squared) for one in noted] == [
        (0, 64, 64**2),
        (0, 36, 100**2 - 64**2),
        (1, 0, 0),
        (1, 0, 0),
    ]
    assert [one.context for one in noted] == [0, 0, 101, 102]


def test_bouts_stay_within_the_longest_context() -> None:
    for longest in (8, 40, 300, 4096):
        for phase in phases(6, longest, random.Random(1)):
            assert all(prompt >= 1 and output >= 1 for prompt, output in phase.requests)
            assert all(prompt + output <= max(longest, 18) for prompt, output in phase.requests)


def test_copies_by_size_give_rate_and_latency() -> None:
    copies = [CopyTime(out, size, 20e-6 + size / rate) for out, rate in ((True, 1e10), (False, 2e10))
              for size in (2**16, 2**18, 2**20)]  # fmt: skip
    link = fit_link(copies)
    assert link.out_bytes_per_s == pytest.approx(1e10, rel=1e-3)
    assert link.in_bytes_per_s == pytest.approx(2e10, rel=1e-3)
    assert link.latency_ns == pytest.approx(20_000, rel=1e-3)


def test_what_is_poor_is_said() -> None:
    truth = LinearLatency(PrefillFit(4.0, 0.4, 0.0), [DecodePiece(1, 5.0, 0.2, 0.0)])
    good = residuals(cells_of(timed(truth)), truth)
    assert warnings(good, {"load_average": 0.3, "cores": 2}) == []
    wrong = LinearLatency(PrefillFit(4.0, 0.4, 0.0), [DecodePiece(1, 8.0, 0.2, 0.0)])
    said = warnings(residuals(cells_of(timed(wrong)), truth), {"load_average": 9.0, "cores": 2})
    assert any(text.startswith("decode iterations have a median error") for text in said)
    assert any("use this machine" in text for text in said)


def test_a_single_batch_size_is_said_to_tell_nothing_of_others() -> None:
    truth = LinearLatency(PrefillFit(4.0, 0.4, 0.0), [DecodePiece(1, 5.0, 0.2, 0.0)])
    cells = cells_of(timed(truth))
    good = residuals(cells, truth)
    assert warnings(good, {}, cells) == []
    (alone,) = warnings(good, {}, [cell for cell in cells if cell.batch in (0, 1)])
    assert alone.startswith("every iteration that decodes has a batch of 1: ") and "flight log" in alone


@pytest.fixture
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_command_measures_and_its_file_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    out = tmp_path / "profile.json"
    arguments = ["profile", "--json", "--no-store", "--budget", "0.5", "--longest", "64", "--max-batch", "2",
                 "--kv-tokens", "512", "--host-tokens", "512", "--threads", "1", "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    hardware = hardware_from_json(json.loads(out.read_text()))
    assert document["hardware"] == json.loads(out.read_text())
    assert hardware.memory.device_tokens == 512
    assert document["model"] == "embedded" and document["machine"]["cores"]
    assert document["residuals"]["decode"]["iterations"] > 0
    assert document["kept"] == [str(out)]


def test_a_budget_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--budget", "0"]) == 2
    assert "above 0" in capsys.readouterr().err
