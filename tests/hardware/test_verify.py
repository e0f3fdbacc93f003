"""What it costs to verify guesses: one rule for all models, close to what was measured, and a profile's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.hardware import LatencyModel, LinearLatency, load_hardware
from fastserve.profiler.fit import Cell, fit_latency
from fastserve.speculation.control import step_ps
from tests.hardware.test_latency import FOUR, TABLE, batches, linear_json, made, models, roofline_json, table_json

chunks = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), max_size=3)
guesses = st.integers(0, 300)


@given(models, batches, st.integers(1, 5000), guesses, chunks)
def test_guesses_add_to_an_iteration_and_none_adds_nothing(
    model: LatencyModel, batch: int, each: int, drafts: int, chunks: list[tuple[int, int]]
) -> None:
    context = batch * each
    plain = model.iteration_ps(batch, context, chunks)
    assert model.verify_ps(batch, context, 0, chunks) == step_ps(model, batch, context, 0, chunks) == plain
    ps = step_ps(model, batch, context, drafts, chunks)
    assert ps >= plain and type(ps) is int
    assert ps <= step_ps(model, batch, context + batch, drafts, chunks), "a longer context costs no less"


@given(linear_json() | table_json(), batches, st.integers(1, 5000), st.integers(1, 300))
def test_no_shorter_than_a_prompt_of_as_many_tokens(data: dict[str, Any], batch: int, each: int, drafts: int) -> None:
    model = made(data)
    assert model.verify_ps(batch, batch * each, drafts) >= model.iteration_ps(0, 0, [(0, batch + drafts)])


@given(linear_json() | roofline_json(), batches, st.integers(1, 5000), st.integers(1, 300))
def test_a_model_of_ones_own_has_the_rule_too(data: dict[str, Any], batch: int, each: int, drafts: int) -> None:
    class Own(LatencyModel):
        def iteration_ps(self, batch: int, context: int, chunks: Any) -> int:
            return model.iteration_ps(batch, context, chunks)

    model = made(data)
    own = Own("own", "")
    context = batch * each
    found = own.verify_ps(batch, context, drafts)
    rows = batch + drafts
    wanted = max(
        model.iteration_ps(rows, context + drafts * each // 2, ()),
        model.iteration_ps(0, 0, [(0, rows)]),
        model.iteration_ps(batch, context, ()),
    )
    assert found == wanted


def test_a_guess_costs_what_one_more_job_would_and_half_the_reading() -> None:
    ms = 10**9
    model = made({**FOUR, "prefill_ms": 1, "decode_ms_per_sequence": 0.5})
    assert (
        model.verify_ps(4, 4000, 8) == model.iteration_ps(4, 4000, ()) + 8 * ms // 2 + 8 * 1000 * 6 * ms // 10**4 // 2
    )
    told = made({**FOUR, "prefill_ms": 1, "decode_ms_per_sequence": 0.5, "verify": {"tokens": 0.5, "context": 0}})
    assert told.verify_ps(4, 4000, 8) == told.iteration_ps(4, 4000, ()) + 8 * ms // 4
    chunk = [(0, 100)]
    extra = told.verify_ps(4, 4000, 8, chunk) - told.iteration_ps(4, 4000, chunk)
    assert extra == 8 * ms // 4, "a chunk in the same iteration changes nothing"


def test_a_table_of_one_batch_gives_no_guess_for_nothing() -> None:
    """What its prefills took is the bound, where it was never seen what more decodes take."""
    latency = load_hardware("opt-1.3b-course").latency
    assert latency.iteration_ps(64, 64, ()) - latency.iteration_ps(1, 64, ()) < 10**8
    assert (
        latency.verify_ps(16, 16 * 64, 48)
        >= latency.iteration_ps(0, 0, [(0, 64)])
        > latency.iteration_ps(16, 16 * 64, ())
    )


def test_a_roofline_reads_weights_and_kv_once_for_all_of_a_jobs_tokens() -> None:
    latency = load_hardware("roofline:llama-3-8b/a100-80g").latency
    plain = latency.iteration_ps(1, 2000, ())
    assert latency.verify_ps(1, 2000, 8) < plain * 1.01, "it waits for memory"
    assert latency.verify_ps(256, 256 * 20, 8 * 256) > 4 * latency.iteration_ps(256, 256 * 20, ()), "it computes"


@pytest.mark.parametrize("data", [FOUR, TABLE])
def test_shares_are_kept_where_they_were_measured_and_old_files_read_as_they_are(data: dict[str, Any]) -> None:
    assert "verify" not in made(data).to_json()
    told = made({**data, "verify": {"tokens": 0.75, "context": 0.25}})
    again = made(json.loads(json.dumps(told.to_json())))
    assert again.to_json() == told.to_json() and "verify" in told.to_json()
    assert again.verify_ps(3, 300, 9) == told.verify_ps(3, 300, 9)
    for wrong, words in (({"tokens": 1}, "'context' is missing"), ({"tokens": 1, "context": 1, "x": 1}, "'x'")):
        with pytest.raises(ValueError, match=words):
            made({**data, "verify": wrong})


def test_the_rule_is_close_to_what_was_measured_and_a_chunk_of_a_prompt_is_not() -> None:
    """Decodes and prefills of the same measurement are the profile; its verify steps are predicted from that."""
    rows = json.loads((Path(__file__).parent / "verify_smollm2.json").read_text())["rows"]
    cells = [Cell(batch, batch * context, 0, 0, ms, 0, 20) for kind, batch, context, _, ms in rows if kind == "decode"]
    for kind, batch, context, k, ms in rows:
        if kind == "prefill":
            cells.append(Cell(0, 0, batch * (k + 1), batch * ((context + k) ** 2 - (context - 1) ** 2), ms, 0, 5))
    model = fit_latency(cells, "smollm2")
    assert isinstance(model, LinearLatency)
    verified = [row for row in rows if row[0] == "verify"]
    rule = [abs(model.verify_ps(n, n * c, n * k) / 1e9 / ms - 1) for _, n, c, k, ms in verified]
    chunk = [abs(model.iteration_ps(0, 0, [(c - 1, k + 1)] * n) / 1e9 / ms - 1) for _, n, c, k, ms in verified]
    assert len(rule) == 108
    assert median(rule) < 0.03 and max(rule) < 0.10
    assert median(chunk) > 4 * median(rule)
