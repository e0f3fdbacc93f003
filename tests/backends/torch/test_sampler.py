"""Sampling: against transformers' own processors, alone against in a batch, and as a distribution."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.philox import philox, uniforms
from fastserve.engine.sampler.results import Sampled, SamplingError
from fastserve.engine.sampler.state import SamplingState

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fastserve.backends.torch.sampler import ONE, Sampler, draw, pick, weigh  # noqa: E402  (torch first, or skip)
from tests.devices import DEVICES  # noqa: E402

VOCAB = 97


def state_of(*, prompt: Any = (), eos: Any = (), output: Any = (), seed: int = 0, **fields: Any) -> SamplingState:
    state = SamplingState(SamplingParams(**fields).resolved({}), seed=seed, prompt=prompt, eos_ids=eos)
    for token in output:
        state.accept(token)
    return state


def random_logits(seed: int, rows: int, vocab: int = VOCAB, scale: float = 3.0) -> Any:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def tokens_of(results: list[Sampled | SamplingError]) -> list[int]:
    assert all(isinstance(result, Sampled) for result in results)
    return [result.token for result in results if isinstance(result, Sampled)]


# -- random numbers ---------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that the authors of Philox publish with it
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    got = philox(np.array(counter, np.uint64)[:, None], np.array(key, np.uint64)[:, None])
    assert got[:, 0].tolist() == words


def test_a_number_depends_on_seed_and_index_alone() -> None:
    seeds, indices = [3, 1, 3, -1, (1 << 64) - 1], [0, 7, 1, 5, 5]
    together = uniforms(seeds, indices)
    assert [uniforms([s], [i])[0] for s, i in zip(seeds, indices, strict=True)] == together.tolist()
    assert together[3] == together[4]  # the same 64 bits
    assert len(set(together.tolist())) == 4
    assert ((together >= 0) & (together < 1)).all()


# -- the filters, against transformers ---------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 1, 2, 5, 40, VOCAB - 1, VOCAB, 500]),
    top_p=st.sampled_from([1.0, 0.05, 0.3, 0.8, 0.95, 0.999]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
)
def test_filters_keep_what_transformers_keeps(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(seed, 3)
    scores = transformers.TemperatureLogitsWarper(temperature)(None, logits.double())
    if top_k:
        scores = transformers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = transformers.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = transformers.MinPLogitsWarper(min_p)(None, scores)
    theirs = torch.softmax(scores, -1)

    shifted = logits - logits.amax(-1, keepdim=True)
    weights = weigh(shifted, torch.full((3, 1), temperature), [top_k] * 3, [top_p] * 3, [min_p] * 3)
    ours = weights.double() / weights.double().sum(-1, keepdim=True)
    assert (weights == weights.floor()).all()
    # A sum that meets top_p within rounding may fall on either side: such draws of logits say nothing.
    ranked = torch.softmax(logits.double() / temperature, -1)
    if top_k:
        ranked = torch.softmax(transformers.TopKLogitsWarper(top_k)(None, logits.double() / temperature), -1)
    sums = ranked.sort(-1, descending=True).values.cumsum(-1)
    assume(top_p == 1 or (sums - top_p).abs().min() > 1e-6)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert ((weights > 0) == (theirs > 2 / ONE))[theirs > 1e-9].all()


def test_ties_with_the_last_one_kept_are_kept() -> None:
    shifted = torch.tensor([[0.0, -1, -1, -1, -9], [0.0, 0, 0, 0, 0]])
    heat = torch.ones(2, 1)
    assert (weigh(shifted, heat, [2, 1], [1, 1], [0, 0]) > 0).sum(-1).tolist() == [4, 5]
    assert (weigh(shifted, heat, [0, 0], [0.6, 0.1], [0, 0]) > 0).sum(-1).tolist() == [4, 5]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    repetition=st.sampled_from([1.0, 0.7, 1.3, 2.0]),
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=30),
    output=st.lists(st.integers(0, VOCAB - 1), max_size=60),
)
def test_repetition_penalty_and_suppression_are_transformers(
    seed: int, repetition: float, prompt: list[int], output: list[int]
) -> None:
    assume(prompt or output)
    logits = random_logits(seed, 1)
    expected = transformers.SuppressTokensLogitsProcessor([5, 6])(None, logits.clone())
    if repetition != 1:
        context = torch.tensor([prompt + output])
        expected = transformers.RepetitionPenaltyLogitsProcessor(repetition)(context, expected)
    state = state_of(
        prompt=prompt, output=output, repetition_penalty=repetition, temperature=0, logprobs=VOCAB, max_tokens=None
    )
    [got] = Sampler([5, 6, VOCAB + 3]).sample(logits.clone(), [state])
    assert isinstance(got, Sampled)
    assert got.token == expected.argmax()
    assert got.top is not None and got.logprob is not None
    report = torch.full((VOCAB,), -torch.inf)
    for token, logprob in got.top:
        report[token] = logprob
    torch.testing.assert_close(report[None], torch.log_softmax(expected, -1))
    assert got.logprob == report[got.token]


@settings(max_examples=40, deadline=None)
@given(
    presence=st.sampled_from([0.0, 0.5, -1.5, 2.0]),
    frequency=st.sampled_from([0.0, 0.25, -2.0]),
    output=st.lists(st.integers(0, 7), max_size=40),
)
def test_presence_and_frequency_count_the_output_alone(presence: float, frequency: float, output: list[int]) -> None:
    logits = random_logits(1, 1, 8)
    counts = Counter(output)
    expected = torch.tensor(
        [float(logits[0, t]) - frequency * counts[t] - presence * (counts[t] > 0) for t in range(8)]
    )
    state = state_of(
        prompt=[0, 1, 2, 2], output=output, temperature=0, logprobs=8, presence_penalty=presence,
        frequency_penalty=frequency,
    )  # fmt: skip
    [got] = Sampler().sample(logits, [state])
    assert isinstance(got, Sampled) and got.top is not None
    report = torch.tensor([logprob for _, logprob in sorted(got.top)])
    torch.testing.assert_close(report, torch.log_softmax(expected, -1), rtol=1e-5, atol=1e-5)


def test_all_penalties_together_count_prompt_and_output_apart() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0, -2.0]])
    state = state_of(
        prompt=[0, 3], output=[1, 1], temperature=0, logprobs=4, repetition_penalty=2.0, presence_penalty=0.5,
        frequency_penalty=0.25,
    )  # fmt: skip
    [got] = Sampler().sample(logits, [state])
    assert isinstance(got, Sampled) and got.top is not None
    expected = torch.log_softmax(torch.tensor([1.0, 1.0 - 0.5 - 0.5, 2.0, -4.0]), -1)
    torch.testing.assert_close(torch.tensor([logprob for _, logprob in sorted(got.top)]), expected)


# -- where an output may end ---------------------------------------


def test_min_tokens_bars_eos_and_stop_tokens_until_they_are_out() -> None:
    state = state_of(eos=[0, 400], stop_token_ids=[1], min_tokens=2, temperature=0)
    taken = [tokens_of(Sampler().sample(torch.tensor([[9.0, 8, 7, 6]]), [state]))[0] for _ in range(4)]
    assert taken == [2, 2, 0, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_constraints_leave_what_they_allow(temperature: float) -> None:
    """transformers' own processors allow the same."""
    fields: dict[str, Any] = {"temperature": temperature, "logprobs": VOCAB, "max_tokens": None}
    for seed in range(20):
        logits = random_logits(seed, 1)
        biased = transformers.SequenceBiasLogitsProcessor({(4,): 2.5, (9,): -1.0})(torch.tensor([[1]]), logits.clone())
        barred = transformers.NoBadWordsLogitsProcessor([[6], [2, 8]], eos_token_id=None)(
            torch.tensor([[1, 2]]), biased
        )
        kept = torch.full_like(barred, -torch.inf)
        kept[:, 4:20] = barred[:, 4:20]
        state = state_of(
            output=[2], seed=seed, allowed_token_ids=range(4, 20), logit_bias={4: 2.5, 9: -1.0},
            bad_token_ids=[[6], [2, 8]], **fields,
        )  # fmt: skip
        [got] = Sampler().sample(logits.clone(), [state])
        assert isinstance(got, Sampled) and got.top is not None
        report = torch.full((VOCAB,), -torch.inf)
        for token, logprob in got.top:
            report[token] = logprob
        torch.testing.assert_close(report[None], torch.log_softmax(kept, -1))
        assert 4 <= got.token < 20 and got.token not in (6, 8)


def test_nothing_left_is_one_requests_fault() -> None:
    bad = state_of(allowed_token_ids=[5], bad_token_ids=[[5]], temperature=0)
    got = Sampler().sample(random_logits(0, 2), [bad, state_of(temperature=0)])
    assert isinstance(got[0], SamplingError) and "every token is barred" in str(got[0])
    assert isinstance(got[1], Sampled)


def test_a_state_needs_resolved_parameters() -> None:
    with pytest.raises(ValueError, match="resolved"):
        SamplingState(SamplingParams(temperature=1.0), seed=0)


# -- a batch ---------------------------------------

CHOICES = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 7, 50]),
        "top_p": st.sampled_from([1.0, 0.4, 0.9]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.2]),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "logprobs": st.sampled_from([None, 0, 3]),
        "min_tokens": st.sampled_from([0, 2]),
        "seed": st.integers(0, 3),
        "allowed_token_ids": st.sampled_from([None, [1, 2, 5, 7, 8]]),
        "logit_bias": st.sampled_from([(), {1: 2.0, 7: -1.5}]),
        "bad_token_ids": st.sampled_from([(), [[5], [7, 8], [8, 7]]]),
    }
)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(
    fields=st.lists(CHOICES, min_size=1, max_size=9), vocab=st.sampled_from([11, 97, 1_003]), seed=st.integers(0, 99)
)
def test_a_request_gets_the_same_in_a_batch_as_alone(
    fields: list[dict[str, Any]], vocab: int, seed: int, device: str
) -> None:
    prompts = [[i, i + 1] for i in range(len(fields))]
    together = [state_of(prompt=p, eos=[2], **f) for f, p in zip(fields, prompts, strict=True)]
    alone = [state_of(prompt=p, eos=[2], **f) for f, p in zip(fields, prompts, strict=True)]
    sampler = Sampler([3])
    for index in range(4):
        logits = random_logits(seed * 10 + index, len(fields), vocab).to(device)
        batch = sampler.sample(logits.clone(), together)
        for i, state in enumerate(alone):
            assert sampler.sample(logits[i : i + 1].clone(), [state]) == [batch[i]]


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
    """A number that the model has no row for would fail the next step of the whole batch."""
    state = state_of(
        prompt=[3, 4], eos=[1, 10**9], seed=seed, temperature=temperature, repetition_penalty=repetition, top_k=top_k,
        top_p=top_p, min_p=min_p, presence_penalty=penalty, frequency_penalty=penalty, logprobs=logprobs,
        stop_token_ids=[2, 10**15], min_tokens=2, max_tokens=8,
    )  # fmt: skip
    sampler = Sampler([0, 10**9])
    for index in range(3):
        (token,) = tokens_of(sampler.sample(random_logits(index, 1, 11, scale), [state]))
        assert (3 if index < 2 else 1) <= token < 11


@pytest.mark.parametrize("device", DEVICES)
def test_large_rows_and_slices_make_no_difference(device: str) -> None:
    logits = random_logits(0, 33, 32_003).to(device)
    peak = logits.amax(-1, keepdim=True)
    uniform = torch.from_numpy(uniforms(list(range(33)), [0] * 33))
    top_k, top_p, min_p = [0, 50, 0] * 11, [1.0, 1.0, 0.9] * 11, [0.0, 0.01, 0.0] * 11
    batch = draw(logits, peak, [0.9] * 33, top_k, top_p, min_p, uniform)
    for i in range(33):
        one = slice(i, i + 1)
        assert draw(logits[one], peak[one], [0.9], top_k[one], top_p[one], min_p[one], uniform[one]) == batch[i]


def test_a_seed_gives_its_tokens_again_and_another_gives_others() -> None:
    logits = random_logits(0, 1, 1_000, 1.0)
    runs = []
    for seed in (5, 5, 6):
        state = state_of(seed=seed)
        runs.append([tokens_of(Sampler().sample(logits.clone(), [state]))[0] for _ in range(20)])
    assert runs[0] == runs[1] != runs[2]
    probabilities = torch.softmax(logits[0].double(), -1).cumsum(-1)
    assert runs[0] == torch.searchsorted(probabilities, torch.from_numpy(uniforms([5] * 20, list(range(20))))).tolist()


def test_a_token_without_weight_is_never_picked() -> None:
    weights = torch.tensor([[0.0, 3, 0, 2, 0]]).expand(6, -1)
    uniform = torch.tensor([[0.0], [0.59], [0.6], [0.79], [0.8], [1 - 2**-53]], dtype=torch.float64)
    assert pick(weights, uniform).tolist() == [1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("temperature", [1e-40, 1e-6])
def test_a_temperature_near_0_is_greedy(temperature: float) -> None:
    logits = random_logits(0, 4)
    states = [state_of(temperature=temperature, seed=i) for i in range(4)]
    assert tokens_of(Sampler().sample(logits.clone(), states)) == logits.argmax(-1).tolist()


def test_a_temperature_without_end_draws_all_alike() -> None:
    logits = random_logits(0, 1, 5).repeat(2000, 1)
    states = [state_of(temperature=1.7e308, seed=i) for i in range(2000)]
    counts = Counter(tokens_of(Sampler([0]).sample(logits, states)))
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 400


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 40,000 seeded draws. The bound is the 1 - 1e-6 quantile (Wilson and Hilferty's formula), so a
    sampler that is right fails for one seed in a million, and this seed is fixed."""
    draws = 40_000
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3))
    probabilities = torch.softmax(logits[0].double() / 0.8, -1)
    kept = probabilities >= probabilities.sort(descending=True).values[9]  # the ten likeliest
    probabilities = torch.where(kept, probabilities, 0) / probabilities[kept].sum()
    uniform = torch.from_numpy(uniforms([11] * draws, list(range(draws))))
    logits = logits.expand(draws, -1)
    tokens = draw(
        logits, logits.amax(-1, keepdim=True), [0.8] * draws, [10] * draws, [1.0] * draws, [0.0] * draws, uniform
    )
    counts = tokens.bincount(minlength=12)
    assert (counts[~kept] == 0).all()
    expected = draws * probabilities[kept]
    chi_square = float(((counts[kept] - expected) ** 2 / expected).sum())
    freedom, z = 9, 4.7534
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square > 0


# -- what goes wrong ---------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("poison", "word"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "barred")])
def test_a_bad_row_fails_alone(temperature: float, poison: float, word: str) -> None:
    logits = random_logits(0, 3)
    clean = [state_of(temperature=temperature, seed=i, top_p=0.9, logprobs=1) for i in range(3)]
    expected = Sampler().sample(logits.clone(), clean)
    logits[1, 40 if poison > 0 or poison != poison else slice(None)] = poison
    states = [state_of(temperature=temperature, seed=i, top_p=0.9, logprobs=1) for i in range(3)]
    got = Sampler().sample(logits, states)
    assert [got[0], got[2]] == [expected[0], expected[2]]
    assert isinstance(got[1], SamplingError) and word in str(got[1])
    assert [state.generated for state in states] == [1, 0, 1]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="2 requests"):
        Sampler().sample(torch.zeros(3, 5), [state_of(), state_of()])
    assert Sampler().sample(torch.zeros(0, 5), []) == []


def test_half_precision_is_widened() -> None:
    logits = random_logits(0, 2).bfloat16()
    states = [state_of(temperature=0), state_of(temperature=0)]
    assert tokens_of(Sampler().sample(logits.clone(), states)) == logits.float().argmax(-1).tolist()


@pytest.mark.cuda
def test_cuda_draws_what_the_cpu_draws() -> None:
    logits = random_logits(0, 16, 5_000)
    fields: list[dict[str, Any]] = [
        {},
        {"top_k": 20},
        {"top_p": 0.8},
        {"temperature": 0},
        {"min_p": 0.1, "logprobs": 2},
        {"allowed_token_ids": range(0, 5_000, 7), "logit_bias": {14: 3.0}, "bad_token_ids": [[7], [21, 28]]},
    ]
    make = [fields[i % 6] | {"seed": i} for i in range(16)]
    cpu = Sampler([1]).sample(logits.clone(), [state_of(**f) for f in make])
    cuda = Sampler([1]).sample(logits.cuda(), [state_of(**f) for f in make])
    assert tokens_of(cpu) == tokens_of(cuda)
