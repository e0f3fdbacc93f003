"""How far the logits of a converted model are from those of the torch backend on the model that it was made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

TEXT: Final = (
    "The capital of France is Paris, and the capital of Italy is Rome. In the year 1969 people walked on the moon "
    "for the first time. def add(a, b): return a + b. To be, or not to be, that is the question."
)
PLACES: Final = 16
"""Beginnings of TEXT whose next token is compared."""

WRONG: Final = 0.5
"""Nats of mean KL divergence above which a file is of another model: 2 bits of each weight make 0.2 of SmolLM2."""


class Distance(NamedTuple):
    """same: places at which the likeliest token is the same one, of `places`. kl: mean divergence in nats. largest:
    difference of two log-probabilities of tokens that the first gives at least 1 %.
    """

    places: int
    same: int
    kl: float
    largest: float

    @property
    def wrong(self) -> bool:
        return not self.kl < WRONG

    def __str__(self) -> str:
        return (
            f"against the torch backend in float32: the same likeliest token at {self.same} of {self.places} places, "
            f"mean KL divergence {self.kl:.2g} nats, likely tokens at most {self.largest:.2g} nats apart"
        )


def distance(model: str, made: str, backend: str, **options: Any) -> Distance:
    """model: as torch knows it. made: of it, for this backend. Raises what loading them raises."""
    wanted = _logprobs(model, "torch", dtype="float32")
    return between(wanted, _logprobs(made, backend, **options))


def between(wanted: Sequence[Mapping[int, float]], got: Sequence[Mapping[int, float]]) -> Distance:
    """Of log-probabilities by token, place by place."""
    same, divergence, largest = 0, 0.0, 0.0
    for ours, theirs in zip(wanted, got, strict=True):
        same += max(ours, key=ours.__getitem__) == max(theirs, key=theirs.__getitem__)
        for token, logprob in ours.items():
            gap = logprob - theirs.get(token, -math.inf)
            weight = math.exp(logprob)
            divergence += weight * gap if weight > 0 else 0.0
            if weight >= 0.01:
                largest = max(largest, abs(gap))
    return Distance(len(wanted), same, divergence / len(wanted), largest)


def _logprobs(model: str, backend: str, **options: Any) -> list[dict[int, float]]:
    """Of all tokens behind each beginning."""
    from fastserve.engine import SamplingParams
    from fastserve.engine.config import EngineConfig
    from fastserve.launch import PLACEHOLDER, Body

    config = EngineConfig.of({"policy": "fcfs", "kv_tokens": 1024, "max_batch": 4, "residency": "recompute"})
    with Body(model, backend, **options).engine(config, PLACEHOLDER) as engine:
        ids = engine.info.encode(TEXT)
        cuts = [max(1, len(ids) * (i + 1) // PLACES) for i in range(PLACES)]
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=engine.info.vocab_size)
        outputs = engine.generate([ids[:cut] for cut in cuts], params)
    for output in outputs:
        if output.error is not None or not output.logprobs:
            raise ValueError(f"backend {backend} cannot say the logits of {model}: {output.error}")
    return [dict(output.logprobs[0]) for output in outputs]  # type: ignore[index]
