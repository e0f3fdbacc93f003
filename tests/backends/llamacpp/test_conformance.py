"""What every backend must do, on the embedded model in float32."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import PLACEHOLDER, Body
from tests.backends.conformance import CHECKS, CONTEXT, Check, tokens_survive

pytestmark = pytest.mark.llamacpp


@pytest.fixture(scope="module")
def body() -> Body:
    return Body("embedded", "llamacpp", dtype="float32", threads=1, max_model_len=CONTEXT)


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(check: Check, body: Body) -> None:
    def make(**serving: Any) -> Engine:
        return body.engine(EngineConfig.of(serving), PLACEHOLDER)

    found = check(make)
    if check is tokens_survive:
        print(found)
        assert found.same == found.outputs  # type: ignore[attr-defined]  # in float32: no promise, and so it is
