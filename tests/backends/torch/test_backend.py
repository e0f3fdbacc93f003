"""The torch body on a real model, where something goes wrong in the middle of a step."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastserve.backends.torch.backend import TorchBackend  # noqa: E402 (after importorskip)
from fastserve.backends.torch.block_manager import BlockManager  # noqa: E402
from fastserve.engine import Engine  # noqa: E402
from fastserve.engine.backend import Wanted  # noqa: E402
from fastserve.engine.params import SamplingParams  # noqa: E402
from tests.backends.torch.stage import BLOCK, Stage, alone, tiny  # noqa: E402
from tests.devices import DEVICES, need  # noqa: E402
from tests.sched.worlds import MS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [[5, 6, 7, 8, 9] * n for n in (1, 4, 2, 6, 3)]


@pytest.fixture(scope="module", params=DEVICES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    need(request.param)
    return tiny(tmp_path_factory.mktemp("tiny"), device=request.param)


def staged(model: Any, **options: Any) -> Stage:
    stage = Stage(model, "mlfq", 16, 40, **options)
    for i, prompt in enumerate(PROMPTS):
        stage.add(prompt, at=i * MS)
    return stage


def sampling(stage: Stage, id: int) -> Any:
    """What the draws of a live request depend on; None once it has departed."""
    state = stage.backend.states.get(stage.requests[id].job)
    return None if state is None else state.sampling


class Flawed:
    """The witness's forward pass, with something done to its answer or in its place at some calls."""

    def __init__(self, stage: Stage, at: set[int], what: Any) -> None:
        self.forward = stage.witness.forward
        self.at = at
        self.what = what
        self.calls = 0
        stage.witness.forward = self  # type: ignore[assignment]

    def __call__(self, step: Any, cache: Any) -> Any:
        self.calls += 1
        logits = self.forward(step, cache)
        if self.calls in self.at:
            self.what(logits)
        return logits


def out_of_memory(logits: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory, as a device would say")


def out_of_host_memory(logits: Any) -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize("what", [out_of_memory, out_of_host_memory])
@pytest.mark.parametrize("residency", ["recompute", "proactive"])
def test_out_of_memory_shrinks_the_batch_and_tokens_stay_right(residency: str, what: Any, model: Any) -> None:
    stage = staged(model, residency=residency)
    Flawed(stage, {6, 11}, what)
    assert stage.play() == [alone(model, prompt) for prompt in PROMPTS]
    assert stage.loop.counters["oom"] == 2
    assert stage.scheduler.slots <= 2


def test_a_row_that_is_no_number_fails_its_own_request(model: Any) -> None:
    """The others of that step get their tokens."""
    stage = staged(model)

    def spoil(logits: Any) -> None:
        logits[0, 3] = float("nan")

    flawed = Flawed(stage, {9}, spoil)
    tokens = stage.play()
    assert flawed.calls > 9
    failed = [request for request in stage.requests if request.finish_reason == "error"]
    assert len(failed) == 1
    assert failed[0].error is not None
    for request, got, prompt in zip(stage.requests, tokens, PROMPTS, strict=True):
        want = alone(model, prompt)
        assert got == (want[: len(got)] if request in failed else want)


def test_no_memory_for_a_row_drawn_alone_fails_its_own_request(model: Any) -> None:
    """The rows before it have been drawn for by then: thrown away, they would draw the next token of their seed."""
    warm = SamplingParams(max_tokens=12, temperature=1.0, ignore_eos=True).resolved({})

    def played(spoilt: int) -> Stage:
        stage = Stage(model, "fcfs", 64, 0)
        for prompt in PROMPTS[:3]:
            stage.add(prompt, warm, seed=7)
        sample, last = stage.backend.sampler.sample, stage.requests[2]

        def scarce(logits: Any, states: Any) -> Any:
            if sampling(stage, 2) in states and len(last.tokens) == spoilt:
                raise ValueError("as asked") if len(states) > 1 else MemoryError("none left")
            return sample(logits, states)

        stage.backend.sampler.sample = scarce  # type: ignore[method-assign]
        stage.play()
        return stage

    calm, short = played(-1), played(4)
    assert [request.finish_reason for request in short.requests] == ["length", "length", "error"]
    assert short.requests[2].error == "MemoryError: none left"
    assert [request.tokens for request in short.requests[:2]] == [request.tokens for request in calm.requests[:2]]
    assert short.requests[2].tokens == calm.requests[2].tokens[:4]
    assert short.loop.counters["oom"] == 0


def test_text_that_cannot_be_made_fails_its_own_request(model: Any) -> None:
    class Mute:
        stopped = False

        def add(self, token: int) -> str:
            raise UnicodeError("as asked")

        def flush(self) -> str:
            return ""

    stage = staged(model)
    stage.requests[2].detokenizer = Mute()
    tokens = stage.play()
    assert [request.finish_reason for request in stage.requests] == ["length", "length", "error", "length", "length"]
    assert stage.requests[2].error == "UnicodeError: as asked"
    assert tokens[3] == alone(model, PROMPTS[3])


def test_eos_ends_a_request_and_is_its_last_token(model: Any) -> None:
    want = alone(model, PROMPTS[1])
    eos = want[4]
    stage = Stage(model, "fcfs", 64, 0, facts={"eos_ids": frozenset({eos})})
    stage.add(PROMPTS[1])
    stage.add(PROMPTS[1], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True).resolved({}))
    stage.add(PROMPTS[1], SamplingParams(max_tokens=12, temperature=0, stop_after=9).resolved({}))
    ended, ignoring, replayed = stage.play()
    assert ended == want[: want.index(eos) + 1]
    assert ignoring == want
    assert replayed == want[:9]
    assert [request.finish_reason for request in stage.requests] == ["stop", "length", "stop"]


def test_copies_are_counted_as_stall_where_a_step_waits_for_them(model: Any) -> None:
    stage = staged(model, residency="reactive")
    stalls = []
    follow = stage.backend.blocks.follow

    def spy(plan: Any) -> int:
        stall = follow(plan)
        stalls.append((stall, bool(plan.clear or plan.load)))
        return stall

    stage.backend.blocks.follow = spy  # type: ignore[method-assign]
    stage.play()
    assert any(waits for _, waits in stalls)
    assert all(stall >= 0 and (waits or stall == 0) for stall, waits in stalls)


def test_tokens_are_exact_on_a_cpu_and_else_for_a_batch_of_the_same_rows(model: Any) -> None:
    body = TorchBackend(model, Wanted(BLOCK, 64, 64))
    assert body.traits.exact == ("always" if model.device.type == "cpu" else "same-composition")
    assert body.info.device.startswith("cpu" if model.device.type == "cpu" else "cuda:0 (")


def test_closing_gives_the_pools_back_whoever_still_holds_the_engine(model: Any) -> None:
    """On a GPU the next engine takes what is free, and the collector of cycles has not come by then."""
    with Engine.on(TorchBackend(model, Wanted(BLOCK, 64, 64)), kv_tokens=None) as engine:
        engine.generate([[5, 6, 7]], SamplingParams(max_tokens=3))
        cache = engine.loop.backend.cache  # type: ignore[attr-defined]
        assert cache.pool.nbytes and cache.host.nbytes
    assert cache.pool.untyped_storage().nbytes() == cache.host.untyped_storage().nbytes() == 0


def test_more_blocks_than_there_are_is_a_bug_and_says_so() -> None:
    blocks = BlockManager(2, 0, 16, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="3 KV blocks are needed, and 2 of 2 are free; this is a bug"):
        blocks.device.take(3)


@pytest.mark.parametrize("residency", ["reactive", "proactive"])
def test_a_copy_that_fails_costs_its_step_and_no_more(residency: str, model: Any) -> None:
    stage = staged(model, residency=residency)
    send = stage.backend.blocks.mover.copy_out
    failed = []

    class Broken:
        def done(self) -> bool:
            raise OSError("the copy engine has stumbled")

        wait = done

    def flawed(device: list[int], host: list[int]) -> Any:
        if failed:
            return send(device, host)
        failed.append(device)
        return Broken()

    stage.backend.blocks.mover.copy_out = flawed  # type: ignore[method-assign]
    stage.play(failed_steps=1)
    assert failed
    reasons = [request.finish_reason for request in stage.requests]
    assert "error" in reasons
    assert all("stumbled" in str(request.error) for request in stage.requests if request.finish_reason == "error")
    assert stage.loop.error is None


def test_an_exception_in_one_requests_sampling_fails_that_request_alone(model: Any) -> None:
    """The others are drawn for again, from the same logits: their tokens are those of an undisturbed run."""
    hot = SamplingParams(max_tokens=8, temperature=0.9, repetition_penalty=1.3, seed=11).resolved({})
    wanted = [alone(model, prompt, hot) for prompt in PROMPTS[:3]]
    stage = Stage(model, "fcfs", 64, 0)
    for prompt in PROMPTS[:3]:
        stage.add(prompt, hot)
    sample = stage.backend.sampler.sample

    def flawed(logits: Any, states: Any) -> Any:
        bad = [state for state in states if state is sampling(stage, 1) and state.generated == 3]
        if bad and len(states) > 1:
            logits.fill_(7.0)
        if bad:
            raise ArithmeticError("the penalty overflowed")
        return sample(logits, states)

    stage.backend.sampler.sample = flawed  # type: ignore[method-assign]
    tokens = stage.play()
    assert [tokens[0], tokens[2]] == [wanted[0], wanted[2]]
    assert tokens[1] == wanted[1][:3]
    assert [request.finish_reason for request in stage.requests] == ["length", "error", "length"]
    assert stage.requests[1].error == "ArithmeticError: the penalty overflowed"


def test_a_shortage_of_memory_while_sampling_is_the_steps(model: Any) -> None:
    wanted = [alone(model, prompt) for prompt in PROMPTS[:2]]
    stage = Stage(model, "fcfs", 64, 0)
    for prompt in PROMPTS[:2]:
        stage.add(prompt)
    sample, left = stage.backend.sampler.sample, [1]

    def flawed(logits: Any, states: Any) -> Any:
        if len(states) == 2 and left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("as asked")
        return sample(logits, states)

    stage.backend.sampler.sample = flawed  # type: ignore[method-assign]
    assert stage.play() == wanted
    assert stage.loop.counters["oom"] == 1
    assert stage.scheduler.slots == 1
