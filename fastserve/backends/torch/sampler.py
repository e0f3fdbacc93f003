"""Sampler: draws the next token of each request from its row of logits and its sampling state.

The order is transformers': suppressed tokens, tokens barred by min_tokens, the request's constraints, penalties,
temperature, top_k, top_p, min_p.
Logprobs are taken after the penalties and before the temperature.

Drawing is filters and inverse CDF over whole weights, so that a row's token never depends on the batch: a weight is a
whole number held in floating point, a probability times 2^40 without its fraction. Sums of whole numbers below 2^53 are
exact in float64 in whatever order a device adds them. What is left to the device is one softmax a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fastserve.engine.sampler.philox import uniforms
from fastserve.engine.sampler.results import Sampled, SamplingError, explain
from fastserve.engine.sampler.state import SamplingState

ONE: Final = 2.0**40
"""The weight of probability 1. Tokens less likely than 1 in 2^40 are never drawn."""

_CACHED: Final = 1 << 18
"""Elements of a slice on a CPU: what stays in its caches is drawn several times as fast."""

_COLDEST: Final = 1e-36
_HOTTEST: Final = 1e36
"""Temperatures beyond these are these: float32 would have them 0 or infinite, and 0 / 0 is no logit."""


class Sampler:
    """Draws the next tokens. suppress: token ids that are never drawn (generation_config's suppress_tokens)."""

    def __init__(self, suppress: Iterable[int] = ()) -> None:
        self._suppress = torch.tensor(sorted(set(suppress)), dtype=torch.int64)

    def sample(self, logits: Tensor, states: Sequence[SamplingState]) -> list[Sampled | SamplingError]:
        """logits: (n, vocab) float32, overwritten; row i is the next token of states[i], which accepts what is drawn.

        A row that has NaN, +inf or nothing above -inf yields an error object in its place, and its state is not moved.
        The token of a row depends on that row, its state and the seed alone. ValueError where the shapes do not match.
        """
        if logits.ndim != 2 or len(logits) != len(states):
            raise ValueError(f"logits {tuple(logits.shape)} for {len(states)} requests; needed: (requests, vocabulary)")
        if not states:
            return []
        if logits.device.type == "mps":  # no float64 there
            logits = logits.cpu()
        logits = logits.float()
        self._bar(logits, states)
        _constrain(logits, states)
        _penalise(logits, states)
        best = _argmax(logits)
        peak = logits.gather(1, best[:, None])
        tokens = _choose(logits, best, peak, states)
        chosen = torch.where(peak.isfinite().squeeze(1), tokens, -1).tolist()
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

    def _bar(self, logits: Tensor, states: Sequence[SamplingState]) -> None:
        """What may not be drawn becomes -inf; ids beyond the vocabulary are no tokens of this model."""
        vocab = logits.shape[1]
        if len(self._suppress):
            self._suppress = self._suppress[self._suppress < vocab].to(logits.device)
            logits.index_fill_(1, self._suppress, -torch.inf)
        barred = [(i, t) for i, state in enumerate(states) if state.must_go_on for t in state.barred if t < vocab]
        if barred:
            rows, tokens = torch.tensor(barred, device=logits.device).unbind(1)
            logits[rows, tokens] = -torch.inf


def _constrain(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Row by row: biases are added, then what a request does not allow becomes -inf."""
    for i, state in enumerate(states):
        constraint = state.constraint
        if constraint is None:
            continue
        row = logits[i]
        ids, values = constraint.bias
        if ids:
            row[ids] += torch.tensor(values, dtype=row.dtype, device=row.device)
        if constraint.allowed is not None:
            if constraint.mask is None:
                mask = torch.full((len(row),), -torch.inf)
                mask[[token for token in constraint.allowed if token < len(row)]] = 0.0
                constraint.mask = mask.to(row.device)
            row += constraint.mask
        if constraint.barred:
            row[constraint.barred] = -torch.inf


def _penalise(logits: Tensor, states: Sequence[SamplingState]) -> None:
    """Repetition as transformers has it; then frequency and presence, over the output alone, as OpenAI has them."""
    touched = [(i, state, *state.seen) for i, state in enumerate(states) if state.penalised]
    if not touched:
        return
    sizes = [len(ids) for _, _, ids, _ in touched]

    def spread(values: list[float], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.repeat(values, sizes)).to(logits.device, dtype)

    rows = spread([i for i, *_ in touched], torch.int64)
    ids = torch.from_numpy(np.concatenate([ids for _, _, ids, _ in touched])).to(logits.device)
    counts = torch.from_numpy(np.concatenate([counts for *_, counts in touched])).to(logits.device)
    repetition = spread([state.repetition for _, state, *_ in touched], torch.float32)
    frequency = spread([state.params.frequency_penalty for _, state, *_ in touched], torch.float32)
    presence = spread([state.params.presence_penalty for _, state, *_ in touched], torch.float32)
    values = logits[rows, ids]
    values = torch.where(values > 0, values / repetition, values * repetition)
    logits[rows, ids] = values - (frequency * counts + presence * (counts > 0))


def _argmax(logits: Tensor) -> Tensor:
    """(n,): the first largest of each row, or a NaN. On a CPU numpy's is several times as fast as torch's."""
    if logits.is_cpu:
        return torch.from_numpy(logits.numpy().argmax(1))
    return logits.argmax(-1)


def _choose(logits: Tensor, best: Tensor, peak: Tensor, states: Sequence[SamplingState]) -> Tensor:
    """(n,) tokens: the best of greedy rows, a drawn one of the others."""
    drawing = [i for i, state in enumerate(states) if not state.greedy]
    if not drawing:
        return best
    drawn = [states[i] for i in drawing]
    rows = torch.tensor(drawing, device=logits.device)
    mine = slice(None) if len(drawing) == len(states) else rows
    uniform = uniforms([state.seed for state in drawn], [state.generated for state in drawn])
    tokens = draw(
        logits[mine],
        peak[mine],
        [state.temperature for state in drawn],
        [state.top_k for state in drawn],
        [state.top_p for state in drawn],
        [state.min_p for state in drawn],
        torch.from_numpy(uniform),
    )
    return best.index_copy(0, rows, tokens)


def _report(
    logits: Tensor, asking: list[int], chosen: list[int], states: Sequence[SamplingState]
) -> dict[int, Sampled]:
    """What the rows that asked for logprobs get."""
    if not asking:
        return {}
    logprobs = torch.log_softmax(logits[asking], -1)
    width = min(logits.shape[1], max(states[i].logprobs or 0 for i in asking))
    values, ids = (part.tolist() for part in logprobs.topk(width, -1))
    own = logprobs.gather(1, torch.tensor([[chosen[i]] for i in asking], device=logits.device)).squeeze(1).tolist()
    reports = {}
    for place, i in enumerate(asking):
        pairs = sorted(zip(ids[place], values[place], strict=True), key=lambda pair: (-pair[1], pair[0]))
        likely = tuple(pair for pair in pairs[: states[i].logprobs] if pair[1] > -torch.inf)
        reports[i] = Sampled(chosen[i], own[place], likely)
    return reports


# -- drawing -----------------------------------------------------------------------------------------------------------


def weigh(shifted: Tensor, temperature: Tensor, top_k: list[int], top_p: list[float], min_p: list[float]) -> Tensor:
    """Weights (n, vocab) float32 of logits (n, vocab) float32 whose largest is 0 in each row.

    temperature: (n, 1), above 0. Then top_k (0: off), top_p (1: off) and min_p (0: off), in that order, as transformers
    applies them; tokens that tie with the last one kept are kept.
    """
    scaled = shifted / temperature
    ks = [k if 0 < k < scaled.shape[1] else 0 for k in top_k]
    for k in set(ks) - {0}:
        rows = _rows(scaled, [i for i, wanted in enumerate(ks) if wanted == k])
        chosen = scaled[rows]
        _fill(scaled, rows, chosen < _kth_largest(chosen, k), -torch.inf)
    weights = torch.softmax(scaled, -1).mul_(ONE).floor_()

    narrowed = [i for i, p in enumerate(top_p) if p < 1]
    if narrowed:
        rows = _rows(weights, narrowed)
        chosen = weights[rows]
        p = torch.tensor([top_p[i] for i in narrowed], dtype=torch.float64, device=weights.device)
        _fill(weights, rows, chosen < _nucleus(chosen, p[:, None]), 0.0)
    floored = [i for i, p in enumerate(min_p) if p > 0]
    if floored:
        rows = _rows(weights, floored)
        chosen = weights[rows]
        p = torch.tensor([min_p[i] for i in floored], dtype=torch.float64, device=weights.device)
        _fill(weights, rows, chosen < chosen.amax(-1, keepdim=True) * p[:, None], 0.0)
    return weights


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (n,) int64 by inverse CDF in the order of the ids; uniform: (n, 1) float64 in [0, 1)."""
    below = weights.cumsum(-1, dtype=torch.float64)
    total = below[:, -1:]
    target = torch.minimum((uniform * total).floor_(), total - 1)
    return torch.searchsorted(below, target, right=True).squeeze(1)


def draw(
    logits: Tensor,
    peak: Tensor,
    temperature: list[float],
    top_k: list[int],
    top_p: list[float],
    min_p: list[float],
    uniform: Tensor,
) -> Tensor:
    """Tokens (n,) int64 of logits (n, vocab) float32 with their largest, (n, 1); uniform: (n,) float64 in [0, 1).

    See weigh() and pick(). A row with NaN gives any number, the others what they give alone.
    """
    heat = torch.tensor([min(max(t, _COLDEST), _HOTTEST) for t in temperature], device=logits.device)[:, None]
    uniform = uniform.to(logits.device)[:, None]
    count, vocab = logits.shape
    step = count if logits.is_cuda else max(1, _CACHED // vocab)
    parts = []
    for first in range(0, count, step):
        part = slice(first, first + step)
        weights = weigh(logits[part] - peak[part], heat[part], top_k[part], top_p[part], min_p[part])
        parts.append(pick(weights, uniform[part]))
    return torch.cat(parts)


def _rows(matrix: Tensor, rows: list[int]) -> Tensor | slice:
    """What picks these rows; a slice, which copies nothing, for all of them."""
    return slice(None) if len(rows) == len(matrix) else torch.tensor(rows, device=matrix.device)


def _fill(matrix: Tensor, rows: Tensor | slice, where: Tensor, value: float) -> None:
    """In place, in these rows."""
    matrix[rows] = torch.where(where, value, matrix[rows])  # on a CPU several times as fast as masked_fill_


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """(n, 1). On a CPU numpy's partition is several times as fast as topk; the value is the same."""
    if values.is_cpu:
        place = values.shape[1] - k
        return torch.from_numpy(np.partition(values.numpy(), place, axis=-1)[:, place : place + 1])
    return values.topk(k, -1).values[:, -1:]


def _nucleus(weights: Tensor, p: Tensor) -> Tensor:
    """(n, 1): the smallest weight kept, that is the last one with less than p of the total strictly before it."""
    ordered = _descending(weights)
    above = ordered.cumsum(-1, dtype=torch.float64)
    kept = (above - ordered < p * above[:, -1:]).sum(-1, keepdim=True)
    return ordered.gather(-1, kept.clamp(min=1) - 1)  # a row of NaN keeps none


def _descending(values: Tensor) -> Tensor:
    """Each row sorted. On a CPU numpy's sort is ten times as fast; the values are the same."""
    if values.is_cpu:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).flip(-1)
    return values.sort(-1, descending=True).values
