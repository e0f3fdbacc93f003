"""Iteration-time models: exact spans, published numbers, JSON in and out, errors that say what to do."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastserve.hardware import (
    Hardware,
    LatencyModel,
    Link,
    Memory,
    RooflineLatency,
    hardware_from_json,
    load_hardware,
    presets,
    roofline,
    rooflines,
)
from fastserve.hardware.registry import latency_from_json


def made(data: object) -> LatencyModel:
    return latency_from_json(data, "latency")


FOUR = {
    "kind": "linear",
    "prefill_ms": 18,
    "prefill_ms_per_token": 0.1,
    "decode_ms": 20,
    "decode_ms_per_context_token": 6e-4,
}
TOY_MODEL = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "intermediate": 128, "vocab": 100}
TABLE: dict[str, Any] = {
    "kind": "table",
    "prefill": [{"tokens": 100, "ms": 20}, {"tokens": 200, "ms": 30}, {"tokens": 400, "ms": 70}],
    "decode": [
        {"batch": 1, "ms": 10, "ms_per_context_token": 0.001},
        {"batch": 5, "ms": 14, "ms_per_context_token": 0.003},
    ],
}

RATES = {"flops_per_s": 1e9, "bytes_per_s": 1e9}
LATENTS = {"kv_rank": 12, "rope": 2, "nope": 4, "value": 6}
GROUP: dict[str, Any] = {
    "kind": "roofline",
    "model": TOY_MODEL,
    "device": RATES,
    "devices": 2,
    "interconnect": {"bytes_per_s": 1e9},
}

milliseconds = st.floats(0, 100, allow_nan=False) | st.just(0) | st.integers(0, 50)
above_zero = st.floats(1e-6, 100) | st.integers(1, 50)
batches = st.integers(1, 40)
contexts = st.integers(1, 200_000)


@st.composite
def linear_json(draw: st.DrawFn) -> dict[str, Any]:
    def piece() -> dict[str, Any]:
        return {
            "decode_ms": draw(above_zero),
            "decode_ms_per_sequence": draw(milliseconds),
            "decode_ms_per_context_token": draw(st.just(0) | st.floats(0, 1)),
        }

    starts = sorted(draw(st.sets(st.integers(2, 40), max_size=3)))
    return {
        "kind": "linear",
        "prefill_ms": draw(milliseconds),
        "prefill_ms_per_token": draw(milliseconds),
        "prefill_ms_per_squared_token": draw(st.just(0) | st.floats(0, 0.01)),
        **piece(),
        "decode_pieces": [{"from_batch": start, **piece()} for start in starts],
    }


@st.composite
def table_json(draw: st.DrawFn) -> dict[str, Any]:
    lengths = sorted(draw(st.sets(st.integers(0, 5000), min_size=2, max_size=6)))
    times = sorted(draw(st.lists(milliseconds, min_size=len(lengths), max_size=len(lengths))))
    rows = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=5)))
    return {
        "kind": "table",
        "prefill": [{"tokens": n, "ms": ms} for n, ms in zip(lengths, times, strict=True)],
        "decode": [
            {"batch": b, "ms": draw(above_zero), "ms_per_context_token": draw(st.just(0) | st.floats(0, 1))}
            for b in rows
        ],
    }


@st.composite
def roofline_json(draw: st.DrawFn) -> dict[str, Any]:
    # near balance the two bounds change places within a span
    intensity = draw(st.floats(0.05, 20))
    bandwidth = draw(st.floats(1e6, 1e12))
    model: dict[str, Any] = {**TOY_MODEL, "kv_heads": draw(st.sampled_from([1, 2, 4]))}
    model["vocab"] = draw(st.integers(1, 20_000))
    if draw(st.booleans()):
        count = draw(st.integers(1, 64))
        model["experts"] = {
            "count": count,
            "per_token": draw(st.integers(1, count)),
            "intermediate": draw(st.integers(1, 200)),
            "shared_intermediate": draw(st.integers(0, 100)),
            "dense_layers": draw(st.integers(0, 2)),
            "bits": draw(st.sampled_from([0, 4.25])),
        }
    if draw(st.booleans()):
        model |= {"window": draw(st.integers(1, 300)), "window_layers": 1}
    elif draw(st.booleans()):
        sizes = {"key_heads": 2, "key_size": 4, "value_heads": 4, "value_size": draw(st.integers(1, 16))}
        model |= {"linear": {"layers": 1, **sizes}, "output_gate": draw(st.booleans())}
    if draw(st.booleans()):
        model["latents"] = {
            "query_rank": draw(st.sampled_from([0, 8])),
            "kv_rank": 12,
            "rope": 2,
            "nope": 4,
            "value": 6,
        }
    group: dict[str, Any] = {}
    if draw(st.booleans()):
        joined = {"bytes_per_s": draw(st.floats(1e5, 1e12)), "latency_us": draw(milliseconds)}
        group = {"devices": draw(st.sampled_from([2, 4])), "interconnect": joined}
    return {
        "kind": "roofline",
        "model": {**model, "weight_bits": draw(st.sampled_from([0, 8]))},
        "device": {
            "flops_per_s": bandwidth * intensity,
            "bytes_per_s": bandwidth,
            "overhead_ms": draw(milliseconds),
            "layer_overhead_us": draw(milliseconds),
            "fp8_flops_per_s": draw(st.sampled_from([0, 2 * bandwidth * intensity])),
        },
        **group,
    }


models = (linear_json() | table_json() | roofline_json()).map(made)


def toy_roofline(intensity: float, vocab: int) -> LatencyModel:
    device = {"flops_per_s": 1e9 * intensity, "bytes_per_s": 1e9}
    return made({"kind": "roofline", "model": {**TOY_MODEL, "vocab": vocab}, "device": device})


def iterations(model: LatencyModel, k: int, batch: int, context: int) -> list[int]:
    return [model.iteration_ps(batch, context + i * batch, ()) for i in range(k)]


@given(models, st.integers(0, 80), batches, contexts)
def test_a_span_is_the_sum_of_its_iterations(model: LatencyModel, k: int, batch: int, context: int) -> None:
    assert model.span_ps(k, batch, context) == sum(iterations(model, k, batch, context))


@given(models, batches, contexts, st.integers(1, 10_000), st.integers(-3, 3))
def test_steps_for_is_the_smallest_that_reaches(
    model: LatencyModel, batch: int, context: int, k: int, off: int
) -> None:
    ps = model.span_ps(k, batch, context) + off
    steps = model.steps_for(ps, batch, context)
    assert steps >= 1 and model.span_ps(steps, batch, context) >= ps
    assert steps == 1 or model.span_ps(steps - 1, batch, context) < ps


@given(models, batches, contexts, st.integers(-(1 << 90), 1 << 90) | st.sampled_from([0, 1 << 80, 1 << 200]))
def test_steps_for_takes_any_time(model: LatencyModel, batch: int, context: int, ps: int) -> None:
    steps = model.steps_for(ps, batch, context)
    assert model.span_ps(steps, batch, context) >= ps
    assert steps == 1 or model.span_ps(steps - 1, batch, context) < ps
    assert ps > 0 or steps == 1


@given(models, st.integers(1, 60), batches, contexts)
def test_decoding_takes_time_and_grows_with_context(model: LatencyModel, k: int, batch: int, context: int) -> None:
    times = iterations(model, k, batch, context)
    assert times[0] >= 1 and times == sorted(times)
    assert model.last_ps(k, batch, context) == max(times)
    assert all(type(ps) is int for ps in times)


@given(models, st.integers(0, 4000), st.integers(1, 4000))
def test_prefill_grows_with_tokens(model: LatencyModel, tokens: int, more: int) -> None:
    shorter, longer = (model.iteration_ps(0, 0, [(0, n)]) for n in (tokens, tokens + more))
    assert 1 <= shorter <= longer
    assert model.prefill_ns(tokens) == (shorter + 500) // 1000


@given(
    models, batches, contexts, st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), min_size=1, max_size=4)
)
def test_a_mixed_iteration_is_no_shorter_than_its_parts(
    model: LatencyModel, batch: int, context: int, chunks: list[tuple[int, int]]
) -> None:
    mixed = model.iteration_ps(batch, context, chunks)
    apart = (model.iteration_ps(batch, context, ()), model.iteration_ps(0, 0, chunks))
    assert max(apart) <= mixed <= sum(apart) + 1 + len(chunks)


@given(linear_json() | table_json(), st.integers(1, 3000), st.integers(1, 700))
def test_chunks_add_up_to_the_whole_prompt(data: dict[str, Any], prompt: int, size: int) -> None:
    model = made(data)
    fixed = model.iteration_ps(0, 0, [(0, 0)])
    chunks = [(start, min(size, prompt - start)) for start in range(0, prompt, size)]
    parts = sum(model.iteration_ps(0, 0, [chunk]) - fixed for chunk in chunks)
    assert parts == model.iteration_ps(0, 0, [(0, prompt)]) - fixed
    assert parts == model.iteration_ps(0, 0, chunks) - fixed


@given(models, st.integers(1, 2000), st.integers(1, 60), st.none() | st.integers(1, 700), st.integers(0, 10**6))
def test_alone_is_the_job_stepped_by_hand(
    model: LatencyModel, prompt: int, output: int, budget: int | None, found: int
) -> None:
    found %= prompt
    total, cached = 0, found
    while cached < prompt:
        tokens = min(prompt - cached, budget or prompt)
        total += model.iteration_ps(0, 0, [(cached, tokens)])
        cached += tokens
    for generated in range(1, output):
        total += model.iteration_ps(1, prompt + generated, ())
    assert model.alone_ps(prompt, output, budget, found) == total
    assert found or model.alone_ps(prompt, output, budget) == total


@given(linear_json() | table_json() | roofline_json(), batches, contexts)
@example(FOUR, 1, 1)
def test_json_gives_the_same_model_again(data: dict[str, Any], batch: int, context: int) -> None:
    model = made(data)
    again = made(json.loads(json.dumps(model.to_json())))
    assert again.to_json() == model.to_json()
    work = (batch, context, ((0, 100), (50, 7)))
    assert again.iteration_ps(*work) == model.iteration_ps(*work)


@pytest.mark.parametrize(("intensity", "vocab", "batch"), [(1.05, 20_000, 1), (20.0, 100, 30)])
def test_the_roofline_bounds_change_places_exactly_once(intensity: float, vocab: int, batch: int) -> None:
    """Memory leads first where the weights are large, arithmetic first where attention is light and the batch large."""
    model = toy_roofline(intensity, vocab)
    times = iterations(model, 3000, batch, batch)
    growth = [b - a for a, b in pairwise(times)]
    assert growth[0] < growth[-1]
    assert len(set(growth)) <= 3  # before, across and after the change
    assert model.span_ps(3000, batch, batch) == sum(times)


def test_published_numbers_of_opt_13b() -> None:
    """The figures that the authors' fits give: prefills of 512 and 1024 tokens, a decode of 16 jobs with 300 each."""
    model = load_hardware("opt-13b-a100").latency
    assert model.prefill_ns(512) / 1e6 == pytest.approx(72.15, abs=0.01)
    assert model.prefill_ns(1024) / 1e6 == pytest.approx(129.93, abs=0.01)
    assert model.iteration_ps(16, 16 * 300, ()) / 1e9 == pytest.approx(23.57, abs=0.01)
    assert model.decode_ns == 19_974_463


def test_the_fit_changes_with_the_batch() -> None:
    """19.93 + 0.0385 n + 6.27e-4 (context + n) below 95 jobs, 7.17 + 0.158 n + 5.80e-4 (context + n) from there on."""
    model = load_hardware("opt-13b-a100").latency
    below, above = (model.iteration_ps(n, 300 * n, ()) / 1e9 for n in (94, 95))
    assert below == pytest.approx(19.9347 + 0.038507 * 94 + 6.26936e-4 * 301 * 94, abs=1e-3)
    assert above == pytest.approx(7.16619 + 0.158311 * 95 + 5.79800e-4 * 301 * 95, abs=1e-3)


def test_a_mixed_linear_iteration_pays_the_larger_fixed_cost_once() -> None:
    model = made({**FOUR, "prefill_ms_per_squared_token": 1e-5, "decode_ms_per_sequence": 0.5})
    # 20 (decode's, the larger) + 0.5 * 4 + 6e-4 * 1000 + 0.1 * 50 + 1e-5 * (150^2 - 100^2)
    assert model.iteration_ps(4, 1000, [(100, 50)]) == round((20 + 2 + 0.6 + 5 + 0.125) * 1e9)
    slow = made({**FOUR, "prefill_ms": 30, "decode_ms_per_sequence": 0.5})
    assert slow.iteration_ps(4, 1000, [(0, 50)]) == round((30 + 2 + 0.6 + 5) * 1e9)


def test_an_iteration_of_nothing_takes_no_time() -> None:
    for model in (made(FOUR), made(TABLE), toy_roofline(1, 100)):
        assert model.iteration_ps(0, 0, ()) == 0


def test_a_large_batch_needs_no_declaration() -> None:
    model = made({**FOUR, "decode_ms_per_sequence": 0.01})
    assert model.span_ps(2, 5000, 10_000) == 2 * 76_000_000_000 + 5000 * 600_000


def test_a_table_is_read_between_below_and_beyond_its_rows() -> None:
    model = made(TABLE)
    # the first segment is drawn back to 10 ms at 0 tokens; the last one rises 0.2 ms a token
    expected = {0: 10, 50: 15, 100: 20, 150: 25, 300: 50, 400: 70, 500: 90}
    assert {n: model.prefill_ns(n) / 1e6 for n in expected} == expected
    # context 1000; beyond batch 5 the constant rises 1 ms a job and the slope holds
    assert [model.iteration_ps(b, 1000, ()) / 1e9 for b in (1, 3, 5, 7)] == [11, 14, 17, 19]
    # one fixed cost, as decode's 10 ms equals prefill's
    assert model.iteration_ps(1, 1000, [(100, 100)]) / 1e9 == 11 + 10


def test_roofline_counts_weights_and_kv() -> None:
    model = made(
        {"kind": "roofline", "model": TOY_MODEL, "device": {"flops_per_s": 1e30, "bytes_per_s": 1e9, "overhead_ms": 1}}
    )
    assert isinstance(model, RooflineLatency)
    layer = 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128  # q and o, k and v of half the heads, gated MLP
    assert model.model.layer_parameters == 2 * layer
    assert model.model.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    # 1 ms, 1 ns a byte: weights and output projection once, 10 tokens of context read, 3 written
    assert model.iteration_ps(3, 10, ()) == 10**9 + 1000 * (2 * (2 * layer + 6400) + 13 * 256)
    compute = made({"kind": "roofline", "model": TOY_MODEL, "device": {"flops_per_s": 1e9, "bytes_per_s": 1e30}})
    # 1 ns a FLOP: 7 tokens through the layers, one sampled, pairs 4 + 5 + ... + 10 = 49
    assert compute.iteration_ps(0, 0, [(3, 7)]) == 1000 * (7 * 2 * 2 * layer + 2 * 6400 + 49 * 4 * 2 * 64)


def test_layers_with_a_window_are_counted_out() -> None:
    """One layer of two sees the last 4 tokens: of a chunk of 7 behind 3 it attends to 4 each; a decode likewise."""
    windowed = {**TOY_MODEL, "window": 4, "window_layers": 1}
    layers = 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128)
    slow = made({"kind": "roofline", "model": windowed, "device": {"flops_per_s": 1e9, "bytes_per_s": 1e30}})
    # 1 ns a FLOP; a pair takes 4 * 64 in each layer: 4 + 5 + ... + 10 = 49 in one, 7 * 4 in the other
    assert slow.iteration_ps(0, 0, [(3, 7)]) == 1000 * (7 * 2 * layers + 2 * 6400 + (49 + 28) * 256)
    assert slow.iteration_ps(0, 0, [(0, 6)]) == 1000 * (6 * 2 * layers + 2 * 6400 + (21 + 1 + 2 + 3 + 4 * 3) * 256)
    assert slow.iteration_ps(2, 30, ()) == 1000 * (2 * (2 * layers + 2 * 6400) + (30 + 2 * 4) * 256)
    wide = made({"kind": "roofline", "model": windowed, "device": {"flops_per_s": 1e30, "bytes_per_s": 1e9}})
    # 1 ns a byte; a token's KV is 128 in each layer: prefix once and new ones twice, of the window's layer 4 at most
    weights = 2 * (layers + 6400)
    assert wide.iteration_ps(0, 0, [(9, 7)]) == 1000 * (weights + (9 + 14) * 128 + (4 + 14) * 128)
    assert wide.iteration_ps(2, 30, ()) == 1000 * (weights + (2 + 30) * 128 + 2 * 4 * 128)


def test_linear_attention_reads_and_writes_a_state_whatever_the_context() -> None:
    """One layer of two: 4 heads of 8 x 16 numbers of 4 bytes each; the other layer's attention has a gate."""
    sizes = {"layers": 1, "key_heads": 2, "key_size": 8, "value_heads": 4, "value_size": 16}
    shape = {**TOY_MODEL, "output_gate": True, "linear": sizes}
    wide = made({"kind": "roofline", "model": shape, "device": {"flops_per_s": 1e30, "bytes_per_s": 1e9}})
    assert isinstance(wide, RooflineLatency)
    linear = 64 * (2 * 16 + 2 * 64 + 2 * 4) + 64 * 64  # queries and keys; values and gate; two a head; back
    gated = 64 * 64 * 3 + 2 * 64 * 32
    assert wide.model.layer_parameters == linear + gated + 2 * 3 * 64 * 128
    weights, state = 2 * (wide.model.layer_parameters + 6400), 4 * 8 * 16 * 4
    assert wide.iteration_ps(3, 30, ()) == 1000 * (weights + (3 + 30) * 128 + 3 * 2 * state)
    assert wide.iteration_ps(0, 0, [(9, 7)]) == 1000 * (weights + (9 + 14) * 128 + 2 * state)
    slow = made({"kind": "roofline", "model": shape, "device": {"flops_per_s": 1e9, "bytes_per_s": 1e30}})
    token = 2 * wide.model.layer_parameters + 7 * 4 * 8 * 16
    assert slow.iteration_ps(2, 30, ()) == 1000 * (2 * (token + 2 * 6400) + 30 * 256)
    assert slow.iteration_ps(0, 0, [(3, 7)]) == 1000 * (7 * token + 2 * 6400 + 49 * 256)


def test_the_roofline_of_opt_13b_is_near_the_fit() -> None:
    fit, guess = load_hardware("opt-13b-a100").latency, roofline("opt-13b", "a100-80g").latency
    for tokens in (512, 1024, 2048):
        assert guess.prefill_ns(tokens) == pytest.approx(fit.prefill_ns(tokens), rel=0.2)
    for batch, context in ((1, 300), (16, 4800), (64, 19_200), (64, 64_000)):
        assert guess.iteration_ps(batch, context, ()) == pytest.approx(fit.iteration_ps(batch, context, ()), rel=0.2)


@pytest.mark.parametrize("name", [*presets(), *rooflines()])
def test_every_name_loads_with_its_provenance(name: str) -> None:
    hardware = load_hardware(name)
    assert hardware.name == name
    assert len(hardware.provenance) > 100 and hardware.about and "\n" not in hardware.about
    assert 0 < hardware.latency.decode_ns < hardware.latency.prefill_ns(4096)
    assert hardware.memory.bytes_per_token > 0
    tokens = hardware.memory.device_tokens
    assert tokens is None or tokens % hardware.memory.block_tokens == 0


def test_the_pools_of_the_paper() -> None:
    memory, link = load_hardware("opt-13b-a100").memory, load_hardware("opt-13b-a100").link
    assert (memory.device_tokens, memory.device_blocks, memory.host_blocks) == (66_144, 4134, 4587)
    assert memory.block_bytes == 13_107_200
    assert link.copy_ns(memory.block_bytes, out=True) == 409_600
    assert load_hardware("opt-13b-a100-40g").memory.device_blocks == 925
    assert load_hardware("opt-66b-a100").memory.device_tokens == (288 - 132) * 10**9 // 2_359_296 // 16 * 16


def test_memory_may_be_unlimited() -> None:
    memory = Memory()
    assert memory.device_blocks is None and memory.host_blocks is None
    assert Memory(16, 47, 1000, 10).device_blocks == 2  # whole blocks only
    assert Memory(16, 47, 1000, 10).host_blocks == 6
    assert Memory(host_bytes=0).host_blocks == 0


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 40), st.integers(0, 10**6), st.booleans())
def test_a_copy_takes_its_latency_and_its_bytes_rounded_up(size: int, rate: int, latency: int, out: bool) -> None:
    other = 7
    link = Link(rate if out else other, other if out else rate, latency)
    carrying = link.copy_ns(size, out) - latency
    assert carrying * rate >= size * 10**9 > (carrying - 1) * rate


def test_files_are_saved_and_loaded(tmp_path: Path) -> None:
    for name in ("opt-13b-a100", "opt-1.3b-course", "roofline:llama-3-8b/h100"):
        hardware = load_hardware(name)
        hardware.save(tmp_path / "whole.json")
        hardware.latency.save(tmp_path / "latency.json")
        again = load_hardware(tmp_path / "whole.json")
        assert again.to_json() == hardware.to_json()
        assert (again.memory, again.link, again.about) == (hardware.memory, hardware.link, hardware.about)
        bare = load_hardware(str(tmp_path / "latency.json"))
        assert bare.latency.to_json() == hardware.latency.to_json()
        assert (bare.memory, bare.link) == (Memory(), Link())


def test_four_numbers_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(FOUR))
    hardware = load_hardware(path)
    assert isinstance(hardware, Hardware)
    assert hardware.latency.prefill_ns(100) == 28_000_000
    assert hardware.latency.decode_ns == 20_000_600


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected a JSON object"),
        ({}, r"'latency' is missing; give it a model"),
        ({"latency": {}}, r"'kind' is missing; valid kinds: linear, roofline, table"),
        ({"kind": "cubic"}, r"unknown kind 'cubic'; valid kinds: linear, roofline, table"),
        ({**FOUR, "decode_msec": 1}, r"unknown key 'decode_msec'; valid keys: .*decode_ms_per_sequence"),
        ({**FOUR, "prefill_ms": -1}, r"'prefill_ms' must be a number from 0"),
        ({**FOUR, "prefill_ms": float("nan")}, r"'prefill_ms' must be a number from 0"),
        ({**FOUR, "prefill_ms": 10**400}, r"'prefill_ms' must be a number from 0"),
        ({**FOUR, "prefill_ms": True}, r"'prefill_ms' must be a number, got True"),
        ({**FOUR, "prefill_ms": "18"}, r"'prefill_ms' must be a number, got '18'"),
        ({"kind": "linear", "prefill_ms": 18}, r"takes no time; give 'decode_ms'"),
        ({**FOUR, "decode_pieces": [{"decode_ms": 1}]}, r"decode_pieces\[0\]: 'from_batch' is missing"),
        (
            {**FOUR, "decode_pieces": [{"from_batch": 9, "decode_ms": 1}] * 2},
            r"then ascend, got from_batch \[1, 9, 9\]",
        ),
        ({**FOUR, "decode_pieces": [{"from_batch": 9, "ms": 1}]}, r"decode_pieces\[0\]: unknown key 'ms'"),
        ({**TABLE, "prefill": TABLE["prefill"][:1]}, r"at least two lengths"),
        ({**TABLE, "prefill": TABLE["prefill"][::-1]}, r"must rise with ascending lengths"),
        ({**TABLE, "decode": []}, r"'decode' needs at least one row"),
        ({**TABLE, "decode": TABLE["decode"][::-1]}, r"decode rows must ascend"),
        ({**TABLE, "decode": [{"batch": 1, "ms": 0}]}, r"decoding at batch 1 takes no time"),
        ({"kind": "roofline", "model": TOY_MODEL}, r"device: 'flops_per_s' is missing"),
        ({"kind": "roofline", "model": {**TOY_MODEL, "layers": 1.5}}, r"model: 'layers' must be a whole number >= 1"),
        ({"kind": "roofline", "model": TOY_MODEL, "device": {"flops_per_s": 0}}, r"'flops_per_s' must be above 0"),
        (
            {
                "kind": "roofline",
                "model": TOY_MODEL,
                "device": {"flops_per_s": 1, "bytes_per_s": 1, "memory_efficiency": 2},
            },
            r"'memory_efficiency' is a share of the peak, at most 1",
        ),
        (
            {**GROUP, "interconnect": {"bytes_per_s": 1, "node_devices": 10**12}},
            r"interconnect: 'node_devices' 1000000000000; give at most 1024",
        ),
        ({**GROUP, "devices": 3}, r"4 heads cannot be shared evenly among 3 devices; of the counts up to 8, 2, 4 can"),
        ({"kind": "roofline", "model": TOY_MODEL, "device": RATES, "devices": 2}, r"nothing is known of what joins 2"),
        (
            {"kind": "roofline", "model": {**TOY_MODEL, "window": 3}, "device": RATES},
            r"'window' and 'window_layers' belong together",
        ),
        (
            {"kind": "roofline", "model": {**TOY_MODEL, "window": 3, "window_layers": 2}, "device": RATES},
            r"of 2 layers 2 have a window or linear attention; one at least keeps all tokens",
        ),
        (
            {"kind": "roofline", "model": {**TOY_MODEL, "kv_size": 3, "latents": LATENTS}, "device": RATES},
            r"'latents' say what a token keeps; leave out 'kv_size'",
        ),
        ({"latency": FOUR, "memory": {"tokens": 1}}, r"memory: unknown key 'tokens'; valid keys: block_tokens"),
        ({"latency": FOUR, "link": {"out_bytes_per_s": 0}}, r"'out_bytes_per_s' must be a whole number >= 1"),
        ({"latency": FOUR, "link": {"duplex": 1}}, r"'duplex' must be true or false"),
        ({"latency": FOUR, "memory": {"host_bytes": 10}}, r"host_bytes needs bytes_per_token"),
        ({"latency": FOUR, "lnik": {}}, r"unknown key 'lnik'"),
        ({"latency": {"kind": "x"}}, r"mine\.json, latency: unknown kind 'x'"),
    ],
)
def test_errors_say_what_is_wrong_and_what_is_valid(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hardware_from_json(data, "mine.json")


def test_a_name_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'opt-13b'; presets: .*opt-13b-a100, .*roofline:llama-3-8b/a100-80g"):
        load_hardware("opt-13b")
    with pytest.raises(ValueError, match=r"no roofline for the device 'abacus'; devices: a100-40g, "):
        load_hardware("roofline:llama-3-8b/abacus")
    with pytest.raises(ValueError, match=r"no roofline for the model 'llama'; models: llama-2-7b, "):
        load_hardware("roofline:llama")
    with pytest.raises(ValueError, match=r"opt-13b does not fit l4: its weights take 25\.7 GB of 21\.6 GB usable"):
        load_hardware("roofline:opt-13b/l4")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON file"):
        load_hardware(broken)


def test_a_job_needs_tokens() -> None:
    model = made(FOUR)
    for prompt, output, budget in ((0, 1, None), (1, 0, None), (1, 1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            model.alone_ps(prompt, output, budget)
