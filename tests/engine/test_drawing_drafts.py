"""What is drawn in a step that verifies drafts: as token by token, by each sampler; no more moves than is taken."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.drafts import Speaker, draw
from fastserve.engine.sampler.results import Sampled, SamplingError
from fastserve.engine.sampler.sampler import Sampler
from fastserve.engine.sampler.state import SamplingState

VOCABULARY = 24
KINDS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "logprobs": 2},
    {"temperature": 0.8, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 0.0, "presence_penalty": 1.0, "logprobs": 0},
    {"temperature": 1.0, "bad_token_ids": [[i, j] for i in range(VOCABULARY) for j in (0, 3, 5)]},
    {"temperature": 1.0, "min_tokens": 3, "stop_token_ids": [*range(0, VOCABULARY, 2)]},
)


def samplers() -> list[Any]:
    found: list[Any] = [("numpy", Sampler, lambda rows: rows)]
    try:
        import torch

        from fastserve.backends.torch.sampler import Sampler as OfTensors
    except ImportError:
        return found
    return [*found, ("torch", OfTensors, torch.from_numpy)]


def state_of(kind: int) -> SamplingState:
    params = SamplingParams(max_tokens=50, **KINDS[kind]).resolved({})
    return SamplingState(params, seed=kind, prompt=[1, 2, 3], eos_ids=(7,))


def facts(state: SamplingState) -> Any:
    constraint = state.constraint
    return state.generated, [part.tolist() for part in state.seen], constraint and constraint.barred


@pytest.mark.parametrize(
    ("name", "kind", "array"), samplers(), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("right", [0, 1, 2, 4])
def test_tokens_are_those_drawn_one_by_one(right: int, name: str, kind: Any, array: Any) -> None:
    """right: of four drafts. The state is that of one who has drawn as many tokens alone."""
    rng = np.random.default_rng(right)
    dice = random.Random(right)
    sampler = kind([11])
    logits = rng.normal(size=(5 * len(KINDS), VOCABULARY)).astype(np.float32) * 3
    speakers, wanted, alone = [], [], []
    for i in range(len(KINDS)):
        state = state_of(i)
        drawn = [
            sampler.sample(array(logits[5 * i + at : 5 * i + at + 1].copy()), [state])[0] for at in range(right + 1)
        ]
        drafts = [one.token for one in drawn[:right]]
        if right < 4:
            drafts += [(drawn[right].token + 1) % VOCABULARY, *[dice.randrange(VOCABULARY) for _ in range(3 - right)]]
        wanted.append(drawn)
        alone.append(facts(state))
        speakers.append(Speaker(state_of(i), 5 * i, drafts))
    assert draw(sampler, array(logits.copy()), speakers) == wanted
    assert [facts(speaker.state) for speaker in speakers] == alone


@pytest.mark.parametrize(
    ("name", "kind", "array"), samplers(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_row_that_is_no_number_ends_what_is_taken(name: str, kind: Any, array: Any) -> None:
    """Behind a first token it is left for the next step; in the first place it is the request's error."""
    logits = np.zeros((6 * 2, VOCABULARY), np.float32)
    logits[:, 4] = 5
    logits[2], logits[9], logits[6] = np.nan, np.nan, np.nan
    sampler = kind()
    speakers = [Speaker(state_of(kind_), row, (4, 4)) for kind_, row in ((0, 0), (4, 3), (0, 6), (4, 9))]
    first, second, third, fourth = draw(sampler, array(logits), speakers)
    assert not isinstance(first, SamplingError)
    assert [one.token for one in first] == [4, 4]
    assert not isinstance(second, SamplingError)
    assert all(isinstance(one, Sampled) for one in second)
    assert len(second) >= 1
    assert isinstance(third, SamplingError)
    assert isinstance(fourth, SamplingError)
    assert [speaker.state.generated for speaker in speakers] == [2, len(second), 0, 0]


def test_what_fails_behind_a_right_draft_is_left_for_the_next_step(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Sampler):
        calls = 0

        def sample(self, logits: Any, states: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise MemoryError("no room")
            return super().sample(logits, states)

    logits = np.zeros((3, VOCABULARY), np.float32)
    logits[:, 4] = 5
    state = state_of(1)
    token = Sampler().sample(logits[:1].copy(), [state_of(1)])[0]
    assert isinstance(token, Sampled)
    assert draw(Failing(), logits, [Speaker(state, 0, (token.token, 4))]) == [[token]]
    assert state.generated == 1
    assert "is left for the next step" in caplog.text
    failing = Failing()
    failing.calls = 1
    with pytest.raises(MemoryError):
        draw(failing, logits, [Speaker(state, 0, (4,))])
    assert state.generated == 1
