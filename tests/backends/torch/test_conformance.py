"""The torch backend does what every backend must do, on the embedded model."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from tests.backends.conformance import CHECKS, CONTEXT, Check
from tests.devices import DEVICES, need

pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def body(device: str, speculate: str = "off") -> Body:
    return Body(
        "embedded", device=device, dtype="float32", max_model_len=CONTEXT, latency="opt-13b-a100", speculate=speculate
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms(check: Check, device: str) -> None:
    need(device)

    def make(**serving: Any) -> Engine:
        return body(device).engine(EngineConfig.of(serving))

    check(make)


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms_while_it_speculates(check: Check) -> None:
    """The model guesses for itself, one token ahead, so that a request still takes some steps."""

    def make(**serving: Any) -> Engine:
        return body("cpu", "draft:embedded:1").engine(EngineConfig.of(serving))

    check(make)
