"""Speculation changes no token: whatever is guessed, those of each request are those of the request alone.

Under policies, residencies and batchings that preempt all the time, greedy and drawn with every parameter, with drafts
that are right and wrong; each run shows both. Stage holds every step to the blocks that the ledger has reserved for it.
"""

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402 (after importorskip)
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch import draft_model  # noqa: E402
from fastserve.backends.torch.backend import TorchBackend  # noqa: E402
from fastserve.backends.torch.draft_model import DraftModel  # noqa: E402
from fastserve.engine import Engine  # noqa: E402
from fastserve.engine.backend import Wanted  # noqa: E402
from fastserve.engine.params import SamplingParams  # noqa: E402
from fastserve.flightlog.replay import replay_log  # noqa: E402
from fastserve.hardware import load_hardware  # noqa: E402
from fastserve.speculation.spec import parse  # noqa: E402
from tests.backends.torch.families import VOCABULARY, write  # noqa: E402
from tests.backends.torch.stage import BLOCK, GREEDY, Stage, alone, tiny  # noqa: E402
from tests.devices import DEVICES, need  # noqa: E402
from tests.engine.conversations import Case, Run  # noqa: E402
from tests.engine.oracle import Oracle  # noqa: E402
from tests.sched.worlds import MS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 16
DRAFTS = 5
LENGTHS = (3, 17, 33, 8, 25, 12, 31, 5, 20, 9)
POOL = -(-(max(LENGTHS) + TOKENS + DRAFTS) // BLOCK) + 4
HOST = 3 * POOL
POLICIES = ("fcfs", "sj-mlfq", "las", "srpt", "chaos", "stranger")
BATCHINGS = ("mixed", "chunked", "prefill-first")
KINDS: dict[int, dict[str, Any]] = {  # of the request of this number
    0: {"min_tokens": 6, "stop_token_ids": [*range(0, VOCABULARY, 7)]},
    2: {"allowed_token_ids": range(0, VOCABULARY, 3), "bad_token_ids": [[6], [9, 12], [0, 3, 6]]},
    4: {"logit_bias": {5: 4.0, 6: -100.0}, "bad_token_ids": [[i, j] for i in range(20) for j in range(0, 20, 2)]},
    6: {"choice_token_ids": [[5] * 9, [5] * TOKENS, [5, 7, *[9] * (TOKENS - 2)], [8, *[11] * TOKENS]]},
    8: {"repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": 0.5},
    9: {"temperature": 0.0, "frequency_penalty": 1.5},
}


def params_of(i: int) -> SamplingParams:
    """Greedy, drawn, and constrained and penalised in every way; with logprobs now and then."""
    given: dict[str, Any] = {"max_tokens": TOKENS, "seed": 1000 + i, "logprobs": 2 if i % 3 == 0 else None}
    if i % 4 == 1:
        return SamplingParams(**given | {"temperature": 0} | KINDS.get(i, {})).resolved({})
    given |= {"temperature": 0.4 + 0.1 * i, "top_k": (0, 20)[i % 2], "top_p": (1.0, 0.9, 0.95)[i % 3]}
    return SamplingParams(**given | KINDS.get(i, {})).resolved({})


def prompts() -> list[list[int]]:
    """Half of them go round, so that n-grams have something to find."""
    rng = random.Random(5)
    found = [[rng.randrange(VOCABULARY) for _ in range(n)] for n in LENGTHS]
    return [(prompt[: 3 + i] * 12)[: len(prompt)] if i % 2 else prompt for i, prompt in enumerate(found)]


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    need(request.param)
    return tiny(tmp_path_factory.mktemp("tiny"), device=request.param)


@cache
def reference(model: Any, i: int) -> tuple[list[int], Any]:
    """The tokens of request i alone and without drafts, and their logprobs."""
    stage = Stage(model, "fcfs", 64, 0)
    stage.add(prompts()[i], params_of(i))
    return stage.play()[0], stage.requests[0].logprobs


def staged(model: Any, policy: str, right: float = 0.75, **options: Any) -> Stage:
    """right: how often a guess is."""
    blocks = options.pop("blocks", POOL)
    stage = Stage(model, policy, blocks, HOST, speculate=f"ngram:{DRAFTS}", **options)
    assert stage.backend.drafting is not None
    stage.backend.drafting.proposer = Oracle(lambda job: reference(model, job.id)[0], right=right)
    return stage


def fill(stage: Stage, apart: int = MS) -> None:
    for i, prompt in enumerate(prompts()):
        stage.add(prompt, params_of(i), at=i * apart)


def check(stage: Stage, model: Any) -> None:
    """Tokens and logprobs are those of each request alone; drafts have been right and wrong."""
    tokens = stage.play()
    assert tokens == [reference(model, i)[0] for i in range(len(LENGTHS))]
    for i, request in enumerate(stage.requests):
        told, alone_ = request.logprobs, reference(model, i)[1]
        assert (told is None) == (alone_ is None)
        for here, there in zip(told or (), alone_ or (), strict=True):
            assert here == pytest.approx(there, abs=1e-4)
    assert 0 < stage.backend.accepted < stage.backend.drafted
    counters = stage.loop.counters
    assert (counters["draft_tokens"], counters["accepted_tokens"]) == (stage.backend.drafted, stage.backend.accepted)


@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_those_of_each_request_alone(policy: str, residency: str, turn: int, model: Any) -> None:
    batching = BATCHINGS[(POLICIES.index(policy) + turn) % 3]
    stage = staged(model, policy, residency=residency, batching=batching, max_batch=3)
    fill(stage)
    check(stage, model)
    if policy in ("sj-mlfq", "las", "chaos"):
        assert sum(stage.preemptions) > len(LENGTHS)


@pytest.mark.parametrize("residency", ["recompute", "proactive"])
@pytest.mark.parametrize("right", [0.0, 0.3, 0.95])
def test_however_good_the_guesses_are(right: float, residency: str, model: Any) -> None:
    stage = staged(model, "mlfq", right=right, residency=residency, max_batch=4)
    fill(stage)
    if right:
        check(stage, model)
        steps = len(stage.backend.owners)
    else:
        assert stage.play() == [reference(model, i)[0] for i in range(len(LENGTHS))]
        steps = 0
    undrafted = Stage(model, "mlfq", POOL, HOST, residency=residency, max_batch=4)
    fill(undrafted)
    undrafted.play()
    assert right < 0.9 or steps < 0.75 * len(undrafted.backend.owners)


@pytest.mark.parametrize("whole", [False, True])
def test_a_pool_of_one_request(whole: bool, model: Any) -> None:
    """Blocks for the drafts are reserved, and are all that there is."""
    longest = max(len(prompt) for prompt in prompts())
    blocks = -(-(longest + TOKENS + DRAFTS) // BLOCK)
    stage = staged(model, "mlfq", blocks=blocks, residency="recompute", whole_context=whole, max_batch=4)
    fill(stage)
    check(stage, model)


@given(
    policy=st.sampled_from(["mlfq", "sj-mlfq", "las", "srpt", "chaos", "stranger"]),
    residency=st.sampled_from(["recompute", "reactive", "proactive"]),
    batching=st.sampled_from(["mixed", "chunked", "prefill-first"]),
    drafts=st.integers(1, 9),
    right=st.sampled_from([0.2, 0.8, 0.97]),
    spare=st.integers(0, 12),
    host=st.sampled_from([0, 7, POOL, 4 * POOL]),
    max_batch=st.integers(1, 6),
    jobs=st.lists(
        st.tuples(
            st.integers(0, len(LENGTHS) - 1), st.integers(1, TOKENS), st.integers(0, 40), st.none() | st.integers(0, 40)
        ),
        min_size=2,
        max_size=14,
    ),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_when(
    model: Any, policy: str, residency: str, batching: str, drafts: int, right: float, spare: int, host: int,
    max_batch: int, jobs: list[tuple[int, int, int, int | None]],
) -> None:  # fmt: skip
    """jobs: (prompt, tokens, ms of its arrival, ms from there to its cancel)."""
    stage = Stage(
        model, policy, POOL + 1 + spare, host, speculate=f"ngram:{drafts}", residency=residency, batching=batching,
        max_batch=max_batch,
    )  # fmt: skip
    assert stage.backend.drafting is not None
    stage.backend.drafting.proposer = Oracle(lambda job: reference(model, jobs[job.id][0])[0], right=right)
    for id, (i, tokens, at, cancel) in enumerate(jobs):
        fields = {name: getattr(params_of(i), name) for name in SamplingParams.names()}
        fields |= {"max_tokens": tokens, "min_tokens": min(tokens, fields["min_tokens"])}
        stage.add(prompts()[i], SamplingParams(**fields), at=at * MS)
        if cancel is not None:
            stage.cancel(id, (at + cancel) * MS)
    for (i, tokens, _, cancel), got, request in zip(jobs, stage.play(), stage.requests, strict=True):
        if i != 0:  # (its min_tokens may be another here)
            assert got == reference(model, i)[0][: len(got)]
        assert request.finish_reason in ("stop", "length") or cancel is not None
        assert cancel is not None or len(got) == tokens or request.finish_reason == "stop"


# -- with what else there is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["", "out of memory", "failing copies", "cancels"])
@pytest.mark.parametrize(("policy", "residency", "tier"), [("mlfq", "recompute", 0), ("las", "proactive", 200)])
def test_shared_prefixes(policy: str, residency: str, tier: int, fault: str, tmp_path_factory: Any) -> None:
    """What is shared never has the KV of a draft that was wrong: Stage looks at each write, and who finds it says what
    it would say alone.
    """
    model = tiny(tmp_path_factory.mktemp("shared"))
    seen = accepted = drafted = 0
    for seed in range(2):
        run = Run(model, Case(seed, policy, residency, "chunked", BLOCK, fault, tier=tier, drafts=4))
        run.check()
        assert run.found
        cancelled = sum([request.finish_reason == "cancelled" for request in run.stage.requests])
        seen += {"": 1, "out of memory": run.oom, "failing copies": run.failed, "cancels": cancelled}[fault]
        drafted += run.stage.backend.drafted
        accepted += run.stage.backend.accepted
    assert 0 < accepted < drafted
    assert seen or fault in ("failing copies", "out of memory")


def test_an_answer_is_found_as_far_as_its_tokens_were_right(model: Any) -> None:
    """Of a request that ended amid right drafts as much is left behind as without drafts."""
    prompt = prompts()[2][:12]
    left: list[tuple[list[int], int, list[int]]] = []
    for speculate in ("off", "ngram:4"):
        stage = Stage(model, "fcfs", 64, 0, speculate=speculate, prefix_cache="on", prefix_tokens=BLOCK)
        if stage.backend.drafting is not None:
            stage.backend.drafting.proposer = Oracle(lambda job: left[0][0], right=1.0)
        first = stage.add(prompt)
        stage.go()
        again = [*prompt, *first.tokens, 1, 2, 3]
        second = stage.add(again, at=stage.clock.now())
        found = stage.scheduler.ledger.tree.found(second.job.ids, len(again))  # type: ignore[attr-defined]
        stage.go()
        left.append((first.tokens, found, second.tokens))
    assert left[0] == left[1]
    assert left[0][1] == (len(prompt) + 12 - 1) // BLOCK * BLOCK


def test_a_log_is_replayed(model: Any, tmp_path: Path) -> None:
    """Of a real thread and clock, with shared prefixes: plan by plan the same; and nothing is left behind."""
    log = tmp_path / "flight.jsonl"
    times = load_hardware("opt-13b-a100")
    backend = TorchBackend(model, Wanted(BLOCK, 60 * BLOCK, 90 * BLOCK), times, speculate="ngram:3")
    few = SamplingParams(max_tokens=24, temperature=0.8, seed=1, allowed_token_ids=range(4), ignore_eos=True)
    with Engine.on(
        backend, policy="mlfq", knobs={"q1": 0.002}, max_batch=3, block_tokens=BLOCK, flight_log=log
    ) as engine:
        assert engine.settings["lookahead"] == 3
        first = engine.generate([prompt[:20] for prompt in prompts()], few)
        again = engine.generate([prompt[:20] for prompt in prompts()], few)
        assert [output.token_ids for output in again] == [output.token_ids for output in first]
        assert 0 < engine.counters["accepted_tokens"] < engine.counters["draft_tokens"]
        assert not any(backend.held().values())
    assert '"drafts"' in log.read_text()
    assert replay_log(log).difference is None


# -- who guesses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residency", ["recompute", "proactive"])
def test_ngrams(residency: str, model: Any) -> None:
    """Of few tokens, so that the last ones stood before, and what followed is right now and then."""
    few = [SamplingParams(max_tokens=TOKENS, temperature=0.8, seed=i, allowed_token_ids=range(i + 2)) for i in range(8)]
    wanted = []
    for i, params in enumerate(few):
        stage = Stage(model, "fcfs", 64, 0)
        stage.add(prompts()[i], params.resolved({}))
        wanted += stage.play()
    stage = Stage(model, "las", POOL, HOST, speculate="ngram:4", residency=residency, max_batch=3)
    for i, params in enumerate(few):
        stage.add(prompts()[i], params.resolved({}), at=i * MS)
    assert stage.play() == wanted
    assert 0 < stage.backend.accepted < stage.backend.drafted
    assert sum(stage.preemptions) > 2


@pytest.fixture(scope="module")
def other(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose weights are near those of the first, so that its guesses are right now and then."""
    there = tiny(tmp_path_factory.mktemp("other"), device=str(model.device))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in there.module.parameters():
            weight += 0.03 * torch.randn_like(weight)
    return there


def drafted_by(model: Any, draft: Any, policy: str, tokens: int | None = None, **options: Any) -> Stage:
    stage = staged(model, policy, **options)
    assert stage.backend.drafting is not None
    size = tokens or 4 * POOL * BLOCK
    stage.backend.drafting.proposer = DraftModel(draft, size, BLOCK, model.vocab_size)
    fill(stage)
    return stage


@pytest.mark.parametrize("residency", ["recompute", "proactive"])
@pytest.mark.parametrize("policy", ["fcfs", "las", "chaos"])
def test_a_draft_model(policy: str, residency: str, model: Any, other: Any) -> None:
    stage = drafted_by(model, other, policy, residency=residency, max_batch=3)
    check(stage, model)


def test_the_same_model_guesses_itself(model: Any) -> None:
    """With the seeds' own numbers its guesses are what is drawn, but for penalties and constraints."""
    stage = drafted_by(model, model, "fcfs", max_batch=4)
    free = [i for i in range(len(LENGTHS)) if i not in KINDS]
    check(stage, model)
    stage = Stage(model, "fcfs", 64, 0, speculate=f"draft:{model.name}:3")
    for i in free:
        stage.add(prompts()[i], params_of(i))
    assert stage.play() == [reference(model, i)[0] for i in free]
    assert stage.backend.accepted == stage.backend.drafted > 0


def test_a_draft_model_short_of_memory_guesses_for_some(model: Any, other: Any) -> None:
    """Its pool is bounded: the ones displace the others, and all is given back."""
    stage = drafted_by(model, other, "las", tokens=12 * BLOCK, max_batch=3)
    drafting = stage.backend.drafting
    assert drafting is not None
    proposer = drafting.proposer
    assert isinstance(proposer, DraftModel)
    check(stage, model)
    assert sorted(proposer.free) == list(range(12))


def test_a_draft_model_that_fails_costs_guesses_alone(model: Any, other: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(other, name)

        def forward(self, step: Any, cache: Any) -> Any:
            self.calls += 1
            if self.calls % 5 == 0:
                raise torch.OutOfMemoryError("CUDA out of memory, as a device would say")
            return other.forward(step, cache)

    stage = drafted_by(model, Failing(), "las", max_batch=3)
    check(stage, model)
    assert "the draft model failed, and begins with its texts again" in caplog.text


def test_a_draft_model_begins_again_after_a_step_that_failed(model: Any, other: Any) -> None:
    stage = drafted_by(model, other, "fcfs", max_batch=3)
    forward, calls = stage.witness.forward, [0]

    def failing(step: Any, cache: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise torch.OutOfMemoryError("CUDA out of memory, as a device would say")
        return forward(step, cache)

    stage.witness.forward = failing  # type: ignore[method-assign]
    check(stage, model)
    assert stage.loop.counters["oom"] == 1


def test_another_vocabulary_is_refused(model: Any, tmp_path: Path) -> None:
    write(tmp_path, "llama", vocab_size=VOCABULARY + 32)
    with pytest.raises(ValueError, match=r"another vocabulary \(128 tokens\) than .* \(96 tokens\).*or ngram:K"):
        Stage(model, "fcfs", 64, 0, speculate=f"draft:{tmp_path}:3")
    with pytest.raises(ValueError, match=r"There is no folder \./nowhere"):
        Stage(model, "fcfs", 64, 0, speculate="draft:./nowhere:3")


def test_a_draft_model_is_loaded_once(model: Any, tmp_path: Path) -> None:
    write(tmp_path, "llama", seed=3)
    first = draft_model.load_draft(str(tmp_path), model)
    assert draft_model.load_draft(str(tmp_path), model) is first
    assert draft_model.load_draft(model.name, model) is model
    assert (first.device, first.dtype) == (model.device, model.dtype)


# -- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", ["off", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_that_verifies_has_the_bits_of_a_decode(dtype: str, native: str, tmp_path: Path) -> None:
    """Newest token and drafts are rows of their own to the attention; matrix products of the compiled kernels sum a row
    alike however many there are. PyTorch's may not: then logits differ by rounding alone.
    """
    from fastserve.backends.torch.input_batch import Rows, pack
    from fastserve.backends.torch.kv_cache import Cache

    write(tmp_path, "llama", hidden_size=64, intermediate_size=160, head_dim=16, num_hidden_layers=3)
    model = tiny(tmp_path, dtype, native)
    text = [random.Random(3).randrange(VOCABULARY) for _ in range(60)]
    one, many = (Cache(3, 2, 16, 20, 0, BLOCK, model.dtype, model.device) for _ in range(2))
    table = list(range(20))
    apart = 0.0
    with torch.inference_mode():
        for cache_ in (one, many):
            model.forward(pack([], [Rows(text[:20], 0, table, True)], BLOCK), cache_)
        for first in range(20, 60, 5):
            together = model.forward(pack([Rows(text[first : first + 5], first, table, True)], [], BLOCK), many)
            for at in range(first, first + 5):
                apart_ = model.forward(pack([Rows([text[at]], at, table, True)], [], BLOCK), one)[0]
                apart = max(apart, float((apart_ - together[at - first]).abs().max()))
    assert apart == 0.0 if model.native is not None else apart <= (1e-5 if dtype == "float32" else 0.1)


def test_traits_say_what_is_on(model: Any) -> None:
    asked = parse("ngram:3")
    assert asked is not None
    on, off = Stage(model, "fcfs", 8, 0, speculate="ngram:3"), Stage(model, "fcfs", 8, 0)
    assert (on.backend.traits.uneven, on.backend.traits.lookahead) == (True, 3)
    assert (off.backend.traits.uneven, off.backend.traits.lookahead, off.backend.drafting) == (False, 0, None)
    assert on.backend.traits.exact == "same-composition"  # of PyTorch's own products, see above
    assert (on.backend.settings["speculate"], off.backend.settings["speculate"]) == ("ngram:3", "off")


def test_alone_is_alone(model: Any) -> None:
    """The reference of this file is the one of the others."""
    assert alone(model, prompts()[1], GREEDY)[:3] == reference(model, 1)[0][:3]
