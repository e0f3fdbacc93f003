"""Tokens do not depend on preemption: under every policy, residency and batching they are those of an undisturbed run.

In float32, greedy tokens are those of transformers.generate and seeded ones those of the request alone. What is said of
bfloat16, where the last bit of a row may depend on how many rows a matrix product has:

* swapping changes nothing: the same steps on blocks that never move give the same logits, bit for bit;
* recomputing puts into one prefill what was decoded token by token, so logits may differ by rounding: never by more
  than the undisturbed bfloat16 run differs from float32. (Measured on an AVX2 machine, logits of standard deviation
  1.7: 0.033 with PyTorch's attention, 0 with the compiled kernels, against 0.22.)
"""

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402 (after importorskip)
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch.input_batch import (  # noqa: E402
    InputBatch,
    Rows,
    pack,
)
from fastserve.backends.torch.kv_cache import Cache  # noqa: E402
from fastserve.engine.params import SamplingParams  # noqa: E402
from fastserve.policies import POLICIES  # noqa: E402
from tests.backends.torch.families import VOCABULARY  # noqa: E402
from tests.backends.torch.stage import (  # noqa: E402
    BLOCK,
    GREEDY,
    Stage,
    alone,
    distances,
    tiny,
)
from tests.devices import DEVICES, need  # noqa: E402
from tests.sched.worlds import MS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 12
LENGTHS = (3, 17, 40, 8, 25, 12, 31, 5, 20, 9)
POOL = -(-(max(LENGTHS) + TOKENS) // BLOCK) + 3  # blocks: room for the largest request and little more
HOST = 3 * POOL
SWAPS = ("reactive", "proactive")
CONSTRAINTS: dict[int, dict[str, Any]] = {  # of the request of this number
    3: {"allowed_token_ids": range(0, VOCABULARY, 3), "bad_token_ids": [[6], [9, 12], [0, 3, 6]]},
    4: {"logit_bias": {5: 4.0, 6: -100.0}, "bad_token_ids": [[i, j] for i in range(20) for j in range(0, 20, 2)]},
    7: {"choice_token_ids": [[5] * 9, [5] * TOKENS, [5, 7, *[9] * (TOKENS - 2)], [8, *[11] * TOKENS]]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    need(request.param)
    return tiny(folder, device=request.param)


def prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(VOCABULARY) for _ in range(n)] for n in LENGTHS]


def drawn(i: int) -> SamplingParams:
    """Sampling of every kind, with a seed of its own."""
    return SamplingParams(
        max_tokens=TOKENS, temperature=0.7 + 0.1 * i, top_k=(0, 20)[i % 2], top_p=(1.0, 0.9, 0.95)[i % 3],
        repetition_penalty=(1.0, 1.2)[i % 2], presence_penalty=(0.0, 0.5)[i // 5], seed=1000 + i,
        **CONSTRAINTS.get(i, {}),
    ).resolved({})  # fmt: skip


@pytest.fixture(scope="module")
def generated(folder: Path) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    tiny(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    found = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        out = stock.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        found.append(out[0, len(prompt) :].tolist())
    return found


@pytest.fixture(scope="module")
def undisturbed(model: Any) -> list[list[int]]:
    return [alone(model, prompt, drawn(i)) for i, prompt in enumerate(prompts())]


@pytest.mark.parametrize("batching", ["mixed", "chunked"])
@pytest.mark.parametrize("residency", ["recompute", *SWAPS])
@pytest.mark.parametrize("policy", [*POLICIES, "chaos"])
def test_tokens_are_those_of_an_undisturbed_run(
    policy: str, residency: str, batching: str, model: Any, generated: list[list[int]], undisturbed: list[list[int]]
) -> None:
    """Greedy and drawn in turns, arriving while the first ones run."""
    stage = Stage(model, policy, POOL, HOST, residency=residency, batching=batching, max_batch=3)
    greedy = len(residency + batching) % 2
    for i, prompt in enumerate(prompts()):
        stage.add(prompt, GREEDY if i % 2 == greedy else drawn(i), at=i * MS)
    wanted = [(generated if i % 2 == greedy else undisturbed)[i] for i in range(len(LENGTHS))]
    assert stage.play() == wanted
    preemptions = stage.preemptions
    if policy in ("mlfq", "sj-mlfq", "las"):  # time slicing: most jobs are preempted several times
        assert sorted(preemptions)[len(preemptions) // 2] >= 2
    elif policy == "chaos":
        assert sum(preemptions) >= len(preemptions)
    elif policy != "sjf":  # the others preempt for who comes, or when the batch outgrows the pool
        assert sum(preemptions) >= 1


@cache
def reference(model: Any, i: int) -> list[int]:
    return alone(model, prompts()[i], drawn(i) if i % 2 else GREEDY)


@given(
    policy=st.sampled_from(["mlfq", "sj-mlfq", "las", "srpt", "chaos", "stranger"]),
    residency=st.sampled_from(["recompute", *SWAPS]),
    batching=st.sampled_from(["mixed", "chunked", "prefill-first"]),
    spare=st.integers(0, 12),
    host=st.sampled_from([0, 7, POOL, 4 * POOL]),
    max_batch=st.integers(1, 6),
    jobs=st.lists(
        st.tuples(
            st.integers(0, len(LENGTHS) - 1), st.integers(1, TOKENS), st.integers(0, 40), st.none() | st.integers(0, 60)
        ),
        min_size=2,
        max_size=14,
    ),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_when(
    model: Any, policy: str, residency: str, batching: str, spare: int, host: int, max_batch: int,
    jobs: list[tuple[int, int, int, int | None]],
) -> None:  # fmt: skip
    """jobs: (prompt, tokens, ms of its arrival, ms from there to its cancel)."""
    stage = Stage(
        model, policy, POOL - 3 + spare, host, residency=residency, batching=batching, max_batch=max_batch
    )  # fmt: skip
    for id, (i, tokens, at, cancel) in enumerate(jobs):
        params = drawn(i) if i % 2 else GREEDY
        stage.add(prompts()[i], SamplingParams(**{**_fields(params), "max_tokens": tokens}), at=at * MS)
        if cancel is not None:
            stage.cancel(id, (at + cancel) * MS)
    for (i, tokens, _, cancel), got, request in zip(jobs, stage.play(), stage.requests, strict=True):
        assert got == reference(model, i)[: len(got)]
        chosen = bool(i % 2) and got in CONSTRAINTS.get(i, {}).get("choice_token_ids", ())
        assert request.finish_reason == ("stop" if chosen else "length" if len(got) == tokens else "cancelled")
        assert cancel is not None or len(got) == tokens


def _fields(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in SamplingParams.names()}


# -- bfloat16 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module", params=[("cpu", "off"), ("cpu", "auto"), pytest.param(("cuda", "off"), marks=pytest.mark.cuda)]
)
def rounded(request: pytest.FixtureRequest, folder: Path) -> Any:
    """The model in bfloat16, with PyTorch's attention and with the compiled one where there is a compiler."""
    device, native = request.param
    need(device)
    tiny(folder)
    return tiny(folder, "bfloat16", native, device)


def crowded(model: Any, residency: str) -> Stage:
    stage = Stage(model, "mlfq", POOL, HOST, residency=residency)
    for i, prompt in enumerate(prompts()):
        stage.add(prompt, at=i * 2 * MS)
    stage.play()
    return stage


@pytest.mark.parametrize("residency", SWAPS)
def test_swapping_changes_no_bit(residency: str, rounded: Any) -> None:
    """The steps of a run whose blocks move all the time, on blocks that never move."""
    stage = crowded(rounded, residency)
    assert sum(stage.preemptions) > 2 * len(LENGTHS)
    width = -(-(max(LENGTHS) + TOKENS) // BLOCK)
    still = Cache(
        rounded.layers, rounded.kv_heads, rounded.head_dim, width * len(LENGTHS), 0, BLOCK, rounded.dtype,
        rounded.device,
    )  # fmt: skip
    for step, logits, owners in zip(stage.witness.steps, stage.witness.logits, stage.backend.owners, strict=True):
        with torch.inference_mode():
            assert torch.equal(rounded.forward(on_blocks(step, owners, width), still), logits)


def on_blocks(step: InputBatch, owners: list[int], width: int) -> InputBatch:
    """The same step, with the blocks from job * width on for each job."""
    rows = []
    for i, job in enumerate(owners):
        first, end = int(step.starts[i]), int(step.starts[i + 1])
        table = range(job * width, (job + 1) * width)
        rows.append(Rows(step.tokens[first:end].tolist(), int(step.positions[first]), table, end - 1 in step.wanted))
    return pack(rows[: step.decodes], rows[step.decodes :], BLOCK)


def test_recomputing_differs_by_rounding_alone(folder: Path, rounded: Any) -> None:
    """The logits of each token, against those of the same tokens prefilled once and decoded one by one."""
    model = tiny(folder, device=str(rounded.device))
    stage = crowded(rounded, "recompute")
    assert sum(stage.preemptions) > 2 * len(LENGTHS)
    apart, rounding = distances(stage, rounded, model)
    assert apart <= rounding


@pytest.mark.parametrize("residency", ["recompute", *SWAPS])
@pytest.mark.parametrize("device", [pytest.param("mps", marks=pytest.mark.mps)])
def test_on_an_accelerator(device: str, residency: str, folder: Path) -> None:
    """float32 tokens as undisturbed there; the blocks travel on streams of their own."""
    there = tiny(folder, device=device)
    stage = crowded(there, residency)
    assert sum(stage.preemptions) > 2 * len(LENGTHS)
    assert [request.tokens for request in stage.requests] == [alone(there, prompt) for prompt in prompts()]
