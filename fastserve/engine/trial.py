"""Live trial of a policy: all requests must end, with the tokens of a run without preemption."""

from __future__ import annotations

import random
from typing import Any

from fastserve.engine.engine import Engine
from fastserve.engine.params import SamplingParams
from fastserve.hardware import DEFAULT
from fastserve.named_models import EMBEDDED
from fastserve.policies.spec import PolicyLike, PolicySpec
from fastserve.sched.conformance.errors import ConformanceError

REQUESTS = 16


def live_trial(policy: PolicyLike, backend: str = "torch", model: str = EMBEDDED, **options: Any) -> str:
    """Serves requests under the policy with a small KV pool. Returns a sentence on the result.

    backend, options: the body; of one whose tokens are not exact it is counted how many outputs are as undisturbed.
    If the policy needs guesses of output lengths, it gets the true ones. Raises ConformanceError when it breaks, or
    when tokens depend on it; ValueError for a body that cannot be made, or that fails a request without any preemption.
    """
    spec = PolicySpec.of(policy)
    name = getattr(spec.kind, "__name__", spec.name)
    rng = random.Random(0)
    prompts = [[rng.randrange(32, 127) for _ in range(rng.choice([8, 30, 90]))] for _ in range(REQUESTS)]
    lengths = [rng.choice([4, 12, 40]) for _ in range(REQUESTS)]
    params = [
        SamplingParams(max_tokens=tokens, guess=tokens, seed=i, ignore_eos=True) for i, tokens in enumerate(lengths)
    ]
    if backend == "torch" and options.get("dtype", "auto") == "auto":
        options["dtype"] = "float32"  # exact also where KV is computed again
    settings: dict[str, Any] = {
        "backend": backend, "max_batch": 4, "residency": "proactive", "latency": DEFAULT, **options,
    }  # fmt: skip
    with Engine.from_pretrained(model, policy="fcfs", **settings) as calm:
        wanted = calm.generate(prompts, params)
    for want in wanted:
        if want.error is not None:
            raise ValueError(f"backend {backend} fails request {want.id} undisturbed, under fcfs: {want.error}")
    with Engine.from_pretrained(
        model, policy=spec, predictor="client" if spec.needs_guess else None, kv_tokens=320, host_tokens=4096,
        visit=0, **settings,
    ) as engine:  # fmt: skip
        found = engine.generate(prompts, params)
        error, exact = engine.error, engine.loop.backend.traits.exact
    if error is not None:
        raise ConformanceError("live", f"on the live engine: {error}")
    for want, got in zip(wanted, found, strict=True):
        if got.error is not None:
            raise ConformanceError("live", f"on the live engine, request {got.id} under {name} failed: {got.error}")
        if len(want.token_ids) != len(got.token_ids) or (exact == "always" and want.token_ids != got.token_ids):
            raise ConformanceError(
                "live",
                f"on the live engine, request {got.id} under {name} got other tokens than undisturbed, after "
                f"{got.record['preemptions']} preemptions; this is a bug in the engine, please report it",
            )
    preemptions = sum([output.record["preemptions"] for output in found])
    same = sum(want.token_ids == got.token_ids for want, got in zip(wanted, found, strict=True))
    return f"{name} on the live engine: {REQUESTS} requests, {preemptions} preemptions, " + (
        "tokens as undisturbed"
        if exact == "always"
        else f"{same} of {REQUESTS} outputs as undisturbed: backend {backend} is not exact here"
    )
