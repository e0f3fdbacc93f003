"""The onnx backend does what every backend must, on the embedded model exported once."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from tests.backends.conformance import CHECKS, CONTEXT, Check


@pytest.fixture(scope="module")
def body() -> Body:
    return Body("embedded", "onnx", max_model_len=CONTEXT, threads=1)


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(check: Check, body: Body) -> None:
    def make(**serving: Any) -> Engine:
        return body.engine(EngineConfig.of(serving))

    check(make)
