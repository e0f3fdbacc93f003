"""Sampler: draws the next token of each request from its row of logits, in numpy.

The rules, their order and the random numbers are those of backends/torch/sampler, line by line, and so are the tokens,
but for what the last bits of a softmax decide: 1 of 30,720 drawn from rows of 4,096 (greedy ones: none). A row's token
never depends on the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.engine.sampler.philox import uniforms
from fastserve.engine.sampler.results import Sampled, SamplingError, explain
from fastserve.engine.sampler.state import SamplingState

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Whole = NDArray[np.int64]

ONE: Final = np.float32(2.0**40)
"""The weight of probability 1. Tokens less likely than 1 in 2^40 are never drawn."""

_CACHED: Final = 1 << 18
"""Elements of a slice: what stays in a processor's caches is drawn several times as fast."""

_COLDEST: Final = 1e-36
_HOTTEST: Final = 1e36
"""Temperatures beyond these are these: float32 would have them 0 or infinite, and 0 / 0 is no logit."""

_NEVER: Final = np.float32(-np.inf)


class Sampler:
    """Draws the next tokens. suppress: token ids that are never drawn (generation_config's suppress_tokens)."""

    def __init__(self, suppress: Iterable[int] = ()) -> None:
        self._suppress = np.array(sorted(set(suppress)), np.int64)

    def sample(self, logits: Floats, states: Sequence[SamplingState]) -> list[Sampled | SamplingError]:
        """logits: (n, vocab) float32, overwritten; row i is the next token of states[i], which accepts what is drawn.

        A row that has NaN, +inf or nothing above -inf yields an error object in its place, and its state is not moved.
        The token of a row depends on that row, its state and the seed alone. ValueError where the shapes do not match.
        """
        if logits.ndim != 2 or len(logits) != len(states):
            raise ValueError(f"logits {logits.shape} for {len(states)} requests; needed: (requests, vocabulary)")
        if not states:
            return []
        logits = logits.astype(np.float32, copy=False)
        with np.errstate(all="ignore"):  # a bad row is told in its result
            self._bar(logits, states)
            _constrain(logits, states)
            _penalise(logits, states)
            best: Whole = logits.argmax(1)
            peak: Floats = logits[np.arange(len(states)), best]
            tokens = _choose(logits, best, peak, states)
            chosen: list[int] = np.where(np.isfinite(peak), tokens, -1).tolist()
            asking = [i for i, state in enumerate(states) if state.logprobs is not None and chosen[i] >= 0]
            reports = _report(logits, asking, chosen, states)

        results: list[Sampled | SamplingError] = []
        for i, (token, state) in enumerate(zip(chosen, states, strict=True)):
            if token < 0:
                results.append(explain(float(peak[i]), state))
                continue
            state.accept(token)
            results.append(reports.get(i) or Sampled(token))
        return results

    def writes(self, states: Sequence[SamplingState]) -> bool:
        """Whether sample() would change the logits of these requests: greedy ones without more are only looked at."""
        return len(self._suppress) > 0 or any(
            state.must_go_on or state.penalised or state.constraint is not None for state in states
        )

    def _bar(self, logits: Floats, states: Sequence[SamplingState]) -> None:
        """What may not be drawn becomes -inf; ids beyond the vocabulary are no tokens of this model."""
        vocab = logits.shape[1]
        if len(self._suppress):
            self._suppress = self._suppress[self._suppress < vocab]
            logits[:, self._suppress] = _NEVER
        for i, state in enumerate(states):
            if state.must_go_on:
                logits[i, [token for token in state.barred if token < vocab]] = _NEVER


def _constrain(logits: Floats, states: Sequence[SamplingState]) -> None:
    """Row by row: biases are added, then what a request does not allow becomes -inf."""
    for i, state in enumerate(states):
        constraint = state.constraint
        if constraint is None:
            continue
        row = logits[i]
        ids, values = constraint.bias
        if ids:
            row[ids] += np.array(values, np.float32)
        if constraint.allowed is not None:
            if constraint.mask is None:
                mask = np.full(len(row), _NEVER)
                mask[[token for token in constraint.allowed if token < len(row)]] = 0.0
                constraint.mask = mask
            row += constraint.mask
        if constraint.barred:
            row[constraint.barred] = _NEVER


def _penalise(logits: Floats, states: Sequence[SamplingState]) -> None:
    """Repetition as transformers has it; then frequency and presence, over the output alone, as OpenAI has them."""
    for i, state in enumerate(states):
        if not state.penalised:
            continue
        ids, counts = state.seen
        values = logits[i, ids]
        repetition = np.float32(state.repetition)
        values = np.where(values > 0, values / repetition, values * repetition)
        taken = np.float32(state.params.frequency_penalty) * counts
        taken += np.float32(state.params.presence_penalty) * (counts > 0)
        logits[i, ids] = values - taken


def _choose(logits: Floats, best: Whole, peak: Floats, states: Sequence[SamplingState]) -> Whole:
    """(n,) tokens: the best of greedy rows, a drawn one of the others."""
    drawing = [i for i, state in enumerate(states) if not state.greedy]
    if not drawing:
        return best
    drawn = [states[i] for i in drawing]
    mine: Any = slice(None) if len(drawing) == len(states) else drawing
    tokens = best.copy()
    tokens[drawing] = draw(
        logits[mine],
        peak[mine],
        [state.temperature for state in drawn],
        [state.top_k for state in drawn],
        [state.top_p for state in drawn],
        [state.min_p for state in drawn],
        uniforms([state.seed for state in drawn], [state.generated for state in drawn]),
    )
    return tokens


def _report(
    logits: Floats, asking: list[int], chosen: list[int], states: Sequence[SamplingState]
) -> dict[int, Sampled]:
    """What the rows that asked for logprobs get."""
    reports = {}
    for i in asking:
        row = logits[i] - logits[i].max()
        logprobs = row - np.log(np.exp(row).sum(dtype=np.float32))
        width = min(len(row), states[i].logprobs or 0)
        likely: list[int] = []
        if width:
            least = np.partition(logprobs, len(row) - width)[len(row) - width]
            ids = np.flatnonzero(logprobs >= least)  # by id; ties with the last one are too many
            likely = ids[np.argsort(-logprobs[ids], kind="stable")][:width].tolist()
        top = tuple((id, float(logprobs[id])) for id in likely if logprobs[id] > _NEVER)
        reports[i] = Sampled(chosen[i], float(logprobs[chosen[i]]), top)
    return reports


# -- drawing -----------------------------------------------------------------------------------------------------------


def weigh(
    shifted: Floats, temperature: Floats, top_k: Sequence[int], top_p: Sequence[float], min_p: Sequence[float]
) -> Floats:
    """Weights (n, vocab) float32 of logits (n, vocab) float32 whose largest is 0 in each row.

    temperature: (n, 1), above 0. Then top_k (0: off), top_p (1: off) and min_p (0: off), in that order, as transformers
    applies them; tokens that tie with the last one kept are kept.
    """
    scaled: Floats = shifted / temperature
    vocab = scaled.shape[1]
    for row, k in zip(scaled, top_k, strict=True):
        if 0 < k < vocab:
            row[row < np.partition(row, vocab - k)[vocab - k]] = _NEVER
    weights: Floats = np.exp(scaled, out=scaled)
    weights /= weights.sum(1, keepdims=True, dtype=np.float32)
    weights *= ONE
    np.floor(weights, out=weights)
    for row, p, least in zip(weights, top_p, min_p, strict=True):
        if p < 1:
            row[row < _nucleus(row, p)] = 0.0
        if least > 0:
            row[row < np.float64(row.max()) * least] = 0.0
    return weights


def pick(weights: Floats, uniform: Doubles) -> Whole:
    """Tokens (n,) by inverse CDF in the order of the ids; uniform: (n,) in [0, 1)."""
    below: Doubles = weights.cumsum(1, dtype=np.float64)
    total = below[:, -1]
    target = np.minimum(np.floor(uniform * total), total - 1)
    return np.array([row.searchsorted(at, "right") for row, at in zip(below, target, strict=True)], np.int64)


def draw(
    logits: Floats, peak: Floats, temperature: Sequence[float], top_k: Sequence[int], top_p: Sequence[float],
    min_p: Sequence[float], uniform: Doubles,
) -> Whole:  # fmt: skip
    """Tokens (n,) of logits (n, vocab) float32 with their largest, (n,); uniform: (n,) in [0, 1).

    See weigh() and pick(). A row with NaN gives any number, the others what they give alone.
    """
    heat = np.array([min(max(t, _COLDEST), _HOTTEST) for t in temperature], np.float32)[:, None]
    count, vocab = logits.shape
    step = max(1, _CACHED // vocab)
    tokens = np.empty(count, np.int64)
    for first in range(0, count, step):
        part = slice(first, first + step)
        shifted = logits[part] - peak[part, None]
        tokens[part] = pick(weigh(shifted, heat[part], top_k[part], top_p[part], min_p[part]), uniform[part])
    return tokens


def _nucleus(weights: Floats, p: float) -> np.float32:
    """The smallest weight kept, that is the last one with less than p of the total strictly before it."""
    ordered = np.sort(weights)[::-1]
    above = ordered.cumsum(dtype=np.float64)
    kept = int((above - ordered < p * above[-1]).sum())
    smallest: np.float32 = ordered[max(kept, 1) - 1]  # a row of NaN keeps none
    return smallest
