"""The torch backend does what every backend must do, on the embedded model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.models.embedded import make_embedded
from tests.backends.conformance import CHECKS, CONTEXT, Check
from tests.backends.torch.made_adapters import write_adapter
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


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return write_adapter(tmp_path_factory.mktemp("adapters") / "style", make_embedded(), size=0.05)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms_with_an_adapter(check: Check, device: str, adapter: Path) -> None:
    """Requests of odd lengths have it, so that steps are of both kinds."""
    need(device)
    loaded = adapted(device, str(adapter))

    def make(**serving: Any) -> Engine:
        engine = loaded.engine(EngineConfig.of(serving))
        submit = engine.submit

        def adapted_submit(prompt: Any, *args: Any, **given: Any) -> Any:
            return submit(prompt, *args, **given, adapter="style" if len(prompt) % 2 else "")

        engine.submit = adapted_submit  # type: ignore[method-assign]
        return engine

    check(make)


@cache
def adapted(device: str, adapter: str) -> Body:
    return Body(
        "embedded", device=device, dtype="float32", max_model_len=CONTEXT, latency="opt-13b-a100",
        lora=[f"style={adapter}"],
    )  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_it_conforms_while_it_speculates(check: Check) -> None:
    """The model guesses for itself, one token ahead, so that a request still takes some steps."""

    def make(**serving: Any) -> Engine:
        return body("cpu", "draft:embedded:1").engine(EngineConfig.of(serving))

    check(make)
