"""Tokens of preempted runs on ONNX Runtime are those of the torch backend, undisturbed and in float32; one call an
iteration for all decodes and a chunk; a row of logits does not depend on company, to the bit."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.backends.onnx.graph import Chunk, PackedGraph
from fastserve.backends.onnx.model import load_model
from fastserve.engine import SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from tests.backends.conformance import SCARCE, Turmoil, params, prompts

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def body(embedded: Path) -> Body:
    return Body(str(embedded), "onnx", max_model_len=96, threads=1)


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("batching", ["mixed", "chunked"])
def test_preempted_runs_say_what_torch_says(residency: str, batching: str, body: Body, calm: list[list[int]]) -> None:
    config = EngineConfig.of({**SCARCE, "policy": Turmoil, "residency": residency, "batching": batching})
    with body.engine(config) as engine:
        outputs = engine.generate(prompts(), GREEDY)
    assert sum(int(output.record["preemptions"]) for output in outputs) >= len(outputs)
    assert [output.token_ids for output in outputs] == calm


@pytest.fixture(scope="module")
def calm() -> list[list[int]]:
    torch = Body("embedded", "torch", dtype="float32", native="off", max_model_len=96)
    with torch.engine(EngineConfig.of({"policy": "fcfs"})) as engine:
        return [engine.generate([prompt], GREEDY)[0].token_ids for prompt in prompts()]


def test_drawn_tokens_are_those_of_torch_too(body: Body) -> None:
    asked = [(prompt, params(i)) for i, prompt in enumerate(prompts())]
    said = []
    for each in (body, Body("embedded", "torch", dtype="float32", native="off", max_model_len=96)):
        with each.engine(EngineConfig.of({"policy": "fcfs"})) as engine:
            said.append([engine.generate([prompt], one)[0].token_ids for prompt, one in asked])
    assert said[0] == said[1]


class Counted:
    """A session that counts its calls."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self.calls += 1
        self._session.run_with_iobinding(binding)


def test_an_iteration_is_one_call_for_all_decodes_and_a_chunk(body: Body) -> None:
    counted = Counted(body.model.session)
    body.model.session = counted
    wanted = []
    try:
        with body.engine(EngineConfig.of({"policy": "fcfs", "max_batch": 8})) as engine:
            backend: Any = engine.loop.backend
            run = backend.run

            def watched(plan: Any) -> Any:
                before, chunks = counted.calls, len(plan.prefill)
                step = run(plan)
                wanted.append((max(1, chunks), counted.calls - before))
                return step

            backend.run = watched
            engine.generate(prompts(), GREEDY)
    finally:
        body.model.session = counted._session
    assert all(most == calls for most, calls in wanted) and len(wanted) >= GREEDY.max_tokens


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_row_depends_on_itself_alone(quantize: str, embedded: Path) -> None:
    """Alone, in a batch, beside a chunk, in chunks of other sizes: the same bits. A chunk of one token is left out:
    attention computes it as a decode, and those round otherwise than longer ones.
    """
    model = load_model(embedded, quantize=quantize, threads=1)
    dice = random.Random(1)
    texts = [[dice.randrange(32, 127) for _ in range(n)] for n in (20, 75, 40, 9, 33)]
    alone = [_alone(model.graph(), text) for text in texts[:4]]
    graph = model.graph()
    for slot, text in enumerate(texts[:4]):
        cuts = [*range(0, len(text) - 4, 7), len(text) - 3]
        for first, end in itertools.pairwise(cuts):
            graph.run((), (), [Chunk(slot, text[first:end], first, False)])
    for step in range(3):
        at = [len(text) - 3 + step for text in texts[:4]]
        chunk = [Chunk(4, texts[4][11 * step : 11 * step + 11], 11 * step, step == 2)]
        logits = graph.run([text[i] for text, i in zip(texts[:4], at, strict=True)], at, chunk)
        for row, kept in zip(logits[:4], alone[:4], strict=True):
            assert np.array_equal(row, kept[step])
    assert np.array_equal(logits[4], model.graph().run((), (), [Chunk(0, texts[4], 0, True)])[0])


def _alone(graph: PackedGraph, text: list[int]) -> list[Any]:
    """Logits of its last three tokens, the first of them behind one chunk."""
    graph.run((), (), [Chunk(0, text[:-3], 0, False)])
    return [graph.run([text[at]], [at], [])[0].copy() for at in range(len(text) - 3, len(text))]


def test_addresses_are_those_of_the_arrays_that_are_there(body: Body) -> None:
    """More jobs than there were slots, after a measurement that had needed more; then one alone, as before them."""
    lengths = [5, 9, 3, 17, 30, 12, 8, 21, 4, 6, 13, 25, 7, 19]
    asked = prompts(lengths)
    with body.engine(EngineConfig.of({"policy": "fcfs", "max_batch": 20})) as engine:
        backend: Any = engine.loop.backend
        assert backend.settings["times"] == "measured at load"
        first = engine.generate([asked[0]], GREEDY)[0].token_ids
        assert backend.graph.arrays.slots < len(asked)
        many = [output.token_ids for output in engine.generate(asked, GREEDY)]
        assert backend.graph.arrays.slots >= len(asked)
        arrays = backend.graph.arrays
        made, kept = arrays.made, [array.ctypes.data for array in arrays.all]
        arrays.grow(len(asked), arrays.room, [])
        assert (arrays.made, [array.ctypes.data for array in arrays.all]) == (made, kept)
        assert engine.generate([asked[0]], GREEDY)[0].token_ids == many[0] == first


def test_a_context_shorter_than_what_a_model_is_tried_on(embedded: Path) -> None:
    with Body(str(embedded), "onnx", max_model_len=12, threads=1).engine(EngineConfig.of({"policy": "fcfs"})) as engine:
        output = engine.submit([5] * 8, SamplingParams(max_tokens=4, ignore_eos=True)).result(60)
    assert (output.finish_reason, len(output.token_ids)) == ("length", 4)
