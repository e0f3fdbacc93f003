"""The sampler without torch: token by token against the one on tensors, and what it does alone."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.results import Sampled, SamplingError
from fastserve.engine.sampler.sampler import Floats, Sampler, draw, pick
from fastserve.engine.sampler.state import SamplingState

VOCAB = 97


def state_of(*, prompt: Any = (), eos: Any = (), seed: int = 0, **fields: Any) -> SamplingState:
    return SamplingState(SamplingParams(**fields).resolved({}), seed=seed, prompt=prompt, eos_ids=eos)


def random_logits(seed: int, rows: int, vocab: int = VOCAB, scale: float = 3.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((rows, vocab)) * scale).astype(np.float32)


def token_of(result: Sampled | SamplingError) -> int:
    assert isinstance(result, Sampled)
    return result.token


CHOICES = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 7, 50]),
        "top_p": st.sampled_from([1.0, 0.4, 0.9]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.2]),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "presence_penalty": st.sampled_from([0.0, -0.7]),
        "logprobs": st.sampled_from([None, 0, 3]),
        "min_tokens": st.sampled_from([0, 2]),
        "seed": st.integers(0, 3),
        "allowed_token_ids": st.sampled_from([None, [1, 2, 5, 7, 8]]),
        "logit_bias": st.sampled_from([(), {1: 2.0, 7: -1.5}]),
        "bad_token_ids": st.sampled_from([(), [[5], [7, 8], [8, 7]]]),
    }
) | st.just({"choice_token_ids": [[1, 8, 2], [1, 8, 5], [7, 7, 7, 7]]})


@settings(max_examples=100, deadline=None)
@given(
    fields=st.lists(CHOICES, min_size=1, max_size=9), vocab=st.sampled_from([11, 97, 1_003]), seed=st.integers(0, 999)
)
def test_it_draws_what_the_one_on_tensors_draws(fields: list[dict[str, Any]], vocab: int, seed: int) -> None:
    torch = pytest.importorskip("torch")
    from fastserve.backends.torch.sampler import Sampler as Tensors

    def states() -> list[SamplingState]:
        return [state_of(prompt=[i, i + 1], eos=[2], **one) for i, one in enumerate(fields)]

    mine, theirs = states(), states()
    for index in range(4):
        logits = random_logits(seed * 10 + index, len(fields), vocab)
        wanted = Tensors([3]).sample(torch.from_numpy(logits.copy()), theirs)
        got = Sampler([3]).sample(logits, mine)
        for one, other in zip(got, wanted, strict=True):
            if isinstance(other, SamplingError):
                assert str(one) == str(other)
                continue
            assert isinstance(one, Sampled)
            assert one.token == other.token
            assert one.logprob == (other.logprob and pytest.approx(other.logprob, abs=1e-5))
            assert (one.top is None) == (other.top is None)
            assert [id for id, _ in one.top or ()] == [id for id, _ in other.top or ()]
            assert [p for _, p in one.top or ()] == pytest.approx([p for _, p in other.top or ()], abs=1e-5)


def test_large_vocabularies_give_the_same_tokens_too() -> None:
    torch = pytest.importorskip("torch")
    from fastserve.backends.torch.sampler import Sampler as Tensors

    kinds: list[dict[str, Any]] = [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02, "temperature": 1.3}]
    fields = [{"seed": i, **kinds[i % 4]} for i in range(64)]
    logits = random_logits(1, len(fields), 49_152)
    wanted = Tensors().sample(torch.from_numpy(logits.copy()), [state_of(**one) for one in fields])
    got = Sampler().sample(logits, [state_of(**one) for one in fields])
    assert [token_of(one) for one in got] == [token_of(one) for one in wanted]


@settings(max_examples=40, deadline=None)
@given(
    fields=st.lists(CHOICES, min_size=1, max_size=9), vocab=st.sampled_from([11, 97, 1_003]), seed=st.integers(0, 99)
)
def test_a_request_gets_the_same_in_a_batch_as_alone(fields: list[dict[str, Any]], vocab: int, seed: int) -> None:
    together = [state_of(prompt=[i, i + 1], eos=[2], **one) for i, one in enumerate(fields)]
    alone = [state_of(prompt=[i, i + 1], eos=[2], **one) for i, one in enumerate(fields)]
    sampler = Sampler([3])
    for index in range(4):
        logits = random_logits(seed * 10 + index, len(fields), vocab)
        batch = sampler.sample(logits.copy(), together)
        for i, state in enumerate(alone):
            [one] = sampler.sample(logits[i : i + 1].copy(), [state])
            assert one == batch[i] or str(one) == str(batch[i])


def test_slices_make_no_difference() -> None:
    logits = random_logits(0, 33, 32_003)
    peak = logits.max(1)
    uniform = np.random.default_rng(0).random(33)
    top_k, top_p, min_p = [0, 50, 0] * 11, [1.0, 1.0, 0.9] * 11, [0.0, 0.01, 0.0] * 11
    batch = draw(logits, peak, [0.9] * 33, top_k, top_p, min_p, uniform)
    for i in range(33):
        one = slice(i, i + 1)
        assert draw(logits[one], peak[one], [0.9], top_k[one], top_p[one], min_p[one], uniform[one]) == batch[i]


def test_a_token_without_weight_is_never_picked() -> None:
    weights = np.repeat(np.array([[0.0, 3, 0, 2, 0]], np.float32), 6, 0)
    uniform = np.array([0.0, 0.59, 0.6, 0.79, 0.8, 1 - 2**-53])
    assert pick(weights, uniform).tolist() == [1, 1, 3, 3, 3, 3]


@settings(max_examples=150, deadline=None)
@given(
    temperature=st.sampled_from([0.0, 1e-300, 1.0, 1e30, 1.7e308]),
    repetition=st.sampled_from([1e-300, 1.0, 1e300]),
    top_k=st.sampled_from([0, 1, 10**12]),
    top_p=st.sampled_from([1e-300, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 1e-300, 1.0]),
    penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    logprobs=st.sampled_from([None, 0, 10**9]),
    scale=st.sampled_from([0.0, 1.0, 1000.0]),
    seed=st.sampled_from([0, -(2**63), 2**64 - 1]),
)
def test_whatever_is_allowed_draws_a_token_that_may_be_drawn(
    temperature: float, repetition: float, top_k: int, top_p: float, min_p: float, penalty: float,
    logprobs: int | None, scale: float, seed: int,
) -> None:  # fmt: skip
    state = state_of(
        prompt=[3, 4], eos=[1, 10**9], seed=seed, temperature=temperature, repetition_penalty=repetition, top_k=top_k,
        top_p=top_p, min_p=min_p, presence_penalty=penalty, frequency_penalty=penalty, logprobs=logprobs,
        stop_token_ids=[2, 10**15], min_tokens=2, max_tokens=8,
    )  # fmt: skip
    sampler = Sampler([0, 10**9])
    for index in range(3):
        [got] = sampler.sample(random_logits(index, 1, 11, scale), [state])
        assert (3 if index < 2 else 1) <= token_of(got) < 11


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("poison", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "barred")])
def test_a_bad_row_fails_alone(temperature: float, poison: float, word: str) -> None:
    def states() -> list[SamplingState]:
        return [state_of(temperature=temperature, seed=i, top_p=0.9, logprobs=1) for i in range(3)]

    logits = random_logits(0, 3)
    expected = Sampler().sample(logits.copy(), states())
    logits[1, 40 if poison > 0 or poison != poison else slice(None)] = poison
    moved = states()
    got = Sampler().sample(logits, moved)
    assert [got[0], got[2]] == [expected[0], expected[2]]
    assert isinstance(got[1], SamplingError) and word in str(got[1])
    assert [state.generated for state in moved] == [1, 0, 1]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="2 requests"):
        Sampler().sample(np.zeros((3, 5), np.float32), [state_of(), state_of()])
    assert Sampler().sample(np.zeros((0, 5), np.float32), []) == []


def test_torch_is_not_imported() -> None:
    code = "import fastserve.engine.sampler.jobs, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_logits_that_it_only_looks_at_need_no_copy() -> None:
    """writes() says when sample() leaves its logits as they are."""
    rng = np.random.default_rng(3)
    for suppress, changes in (((), {}), ((5,), {}), ((), {"temperature": 1.0, "top_k": 5}), ((), {"min_tokens": 2}),
                              ((), {"repetition_penalty": 1.5}), ((), {"logit_bias": {3: 2.0}})):  # fmt: skip
        params = SamplingParams(**({"temperature": 0.0, "logprobs": 3, "stop_token_ids": [7]} | changes)).resolved({})
        states = [SamplingState(params, seed=1, prompt=[1, 2])]
        sampler = Sampler(suppress)
        logits = rng.normal(size=(1, 32)).astype(np.float32)
        before, writes = logits.copy(), sampler.writes(states)
        sampler.sample(logits, states)
        assert writes == bool(suppress or set(changes) - {"temperature", "top_k"})
        assert writes or np.array_equal(logits, before)
