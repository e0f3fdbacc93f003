"""The onnx backend does what every backend must, in float32 and with weights of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from tests.backends.conformance import CHECKS, CONTEXT, Check, Turns, tokens_survive


@pytest.fixture(scope="module")
def body(embedded: Path) -> Body:
    return Body(str(embedded), "onnx", max_model_len=CONTEXT, threads=1)


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(check: Check, body: Body) -> None:
    def make(**serving: Any) -> Engine:
        return body.engine(EngineConfig.of(serving))

    check(make)


def test_tokens_survive_with_8_bits_too(embedded: Path) -> None:
    body = Body(str(embedded), "onnx", max_model_len=CONTEXT, threads=1, quantize="int8")
    assert body.model.dtype == "int8"

    def make(**serving: Any) -> Engine:
        engine = body.engine(EngineConfig.of(serving))
        assert engine.loop.backend.traits.exact == "same-composition"
        return engine

    copied = tokens_survive(make, policies=(Turns,), residencies=("reactive", "proactive"))
    assert copied.same == copied.outputs, "whoever is beside it changes nothing"
