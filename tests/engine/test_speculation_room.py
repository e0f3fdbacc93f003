"""What speculation is given room for, and what it may not touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastserve.backends.torch.backend import TorchBackend  # noqa: E402 (after importorskip)
from fastserve.engine import Engine  # noqa: E402
from fastserve.engine.backend import Wanted  # noqa: E402
from fastserve.engine.config import EngineConfig  # noqa: E402
from fastserve.engine.params import SamplingParams  # noqa: E402
from fastserve.launch import PLACEHOLDER  # noqa: E402
from tests.backends.torch.families import VOCABULARY  # noqa: E402
from tests.backends.torch.stage import BLOCK, tiny  # noqa: E402
from tests.engine.test_speculation import DRAFTS, check, drafted_by  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = 30
"""Tokens, of which the last block has some more."""


@pytest.mark.parametrize("speculate", ["off", f"ngram:{DRAFTS}"])
def test_who_just_fits_into_a_pool_fits_with_drafts(speculate: str, tmp_path: Path) -> None:
    wanted = Wanted(block_tokens=BLOCK, kv_tokens=POOL, host_tokens=0)
    backend = TorchBackend(tiny(tmp_path), wanted, PLACEHOLDER, speculate=speculate)
    with Engine(backend, EngineConfig.of({"policy": "fcfs", "block_tokens": BLOCK})) as engine:
        for prompt in (3, 20):
            most = -(-POOL // BLOCK) * BLOCK - prompt
            output = engine.submit([5] * prompt, SamplingParams(max_tokens=most, ignore_eos=True)).result(60)
            assert (output.finish_reason, len(output.token_ids)) == ("length", most)


def test_a_draft_model_is_not_shown_tokens_that_it_does_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A family's larger models have more rows than its tokenizer has tokens, and than the smaller ones."""
    model, other = tiny(tmp_path / "target"), tiny(tmp_path / "draft")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.module.parameters():
            weight += 0.03 * torch.randn_like(weight)
    known = VOCABULARY - 1

    class Smaller:
        vocab_size = known

        def __getattr__(self, name: str) -> Any:
            return getattr(other, name)

        def forward(self, step: Any, cache: Any) -> Any:
            assert int(step.tokens.max()) < known
            return other.forward(step, cache)[:, :known]

    check(drafted_by(model, Smaller(), "las", max_batch=3), model)
    assert "the draft model failed" not in caplog.text
