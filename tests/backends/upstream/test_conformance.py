"""It does what every backend must do, in front of a server of each API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from tests.backends import conformance
from tests.backends.conformance import CHECKS, CONTEXT, Check, Make
from tests.backends.upstream.stub import Stub


@pytest.fixture(scope="module", params=["llama", "vllm", "openai", "ollama"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    stub = Stub(request.param, slots=8, context=CONTEXT)

    def engine(**serving: Any) -> Engine:
        given: dict[str, Any] = {"max_model_len": CONTEXT} if request.param == "openai" else {}
        given |= {"upstream_slots": 8, "lookahead": 0}  # policies here take turns by single tokens
        found = Body("tiny", "upstream", upstream=stub.url, **given).engine(EngineConfig.of(serving))
        if request.param in ("openai", "ollama"):  # these cannot be told to go on after an end, and the stub has none
            found.input_processor.lacks = frozenset()
        return found

    yield engine
    stub.stop()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check: Check, make: Make) -> None:
    check(make)


def test_a_return_goes_on_as_if_nobody_had_left(make: Make) -> None:
    """The server is given prompt and answer again, to the byte: what it says depends on nothing else."""
    survival = conformance.tokens_survive(make)
    assert survival.preemptions > 20
    assert survival.same == survival.outputs, str(survival)
