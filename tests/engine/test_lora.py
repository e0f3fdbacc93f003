"""Requests of several adapters and of none share steps, blocks and a scheduler, and each gets the tokens that it gets
alone: under preemption, whatever policy, residency and batching, with cached prefixes and with guesses.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch.native import load  # noqa: E402
from fastserve.engine import Engine, SamplingParams  # noqa: E402
from fastserve.engine.adapters import AdapterInUseError, UnknownAdapterError  # noqa: E402
from fastserve.engine.config import EngineConfig  # noqa: E402
from fastserve.engine.request import Piece  # noqa: E402
from fastserve.launch import Body  # noqa: E402
from tests.backends.torch.families import VOCABULARY  # noqa: E402
from tests.backends.torch.made_adapters import write_adapter  # noqa: E402
from tests.backends.torch.stage import BLOCK, GREEDY, Stage, alone, tiny  # noqa: E402
from tests.sched.worlds import MS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 12
LENGTHS = (3, 17, 40, 8, 25, 12, 31, 5, 20, 9)
POOL = -(-(max(LENGTHS) + TOKENS) // BLOCK) + 3
ADAPTERS = ("", "a", "b", "c")
HOW: dict[str, dict[str, Any]] = {
    "a": {"r": 4}, "b": {"r": 9, "target_modules": ["q_proj", "up_proj"]},
    "c": {"target_modules": ["v_proj", "gate_proj", "o_proj"], "use_rslora": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapted")


@pytest.fixture(scope="module", params=["off", "auto"])
def model(request: pytest.FixtureRequest, folder: Path) -> Any:
    """With PyTorch's products, and with the compiled ones where there is a compiler."""
    if request.param == "auto" and load() is None:
        pytest.skip("no compiler here builds the native kernels")
    found = tiny(folder / "base", native=request.param)
    for seed, (name, how) in enumerate(HOW.items()):
        if not (folder / name).is_dir():
            write_adapter(folder / name, folder / "base", seed, **how)
        found.adapters.load(name, str(folder / name))
    return found


def prompts() -> list[list[int]]:
    dice = random.Random(5)
    return [[dice.randrange(VOCABULARY) for _ in range(n)] for n in LENGTHS]


def params(i: int) -> SamplingParams:
    if i % 2 == 0:
        return GREEDY
    return SamplingParams(max_tokens=TOKENS, temperature=0.9, top_k=20, top_p=0.95, seed=1000 + i).resolved({})


@cache
def wanted(model: Any, i: int, adapter: str) -> list[int]:
    return alone(model, prompts()[i], params(i), adapter=adapter)


def test_every_adapter_says_something_else(model: Any) -> None:
    for i in (0, 2, 4):
        assert len({tuple(wanted(model, i, adapter)) for adapter in ADAPTERS}) == len(ADAPTERS)


@given(
    policy=st.sampled_from(["fcfs", "mlfq", "sj-mlfq", "las", "srpt", "chaos", "stranger"]),
    residency=st.sampled_from(["recompute", "reactive", "proactive"]),
    batching=st.sampled_from(["mixed", "chunked", "prefill-first"]),
    spare=st.integers(0, 12),
    host=st.sampled_from([0, 7, POOL, 4 * POOL]),
    max_batch=st.integers(1, 6),
    shares=st.booleans(),
    speculate=st.sampled_from(["off", "off", "ngram:2"]),
    jobs=st.lists(
        st.tuples(st.integers(0, len(LENGTHS) - 1), st.sampled_from(ADAPTERS), st.integers(0, 40),
                  st.none() | st.none() | st.integers(0, 60)),
        min_size=2, max_size=14,
    ),
)  # fmt: skip
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_when(
    model: Any, policy: str, residency: str, batching: str, spare: int, host: int, max_batch: int, shares: bool,
    speculate: str, jobs: list[tuple[int, str, int, int | None]],
) -> None:  # fmt: skip
    """jobs: (prompt, adapter, ms of its arrival, ms from there to its cancel)."""
    stage = Stage(
        model, policy, POOL + spare, host, residency=residency, batching=batching, max_batch=max_batch,
        speculate=speculate, **({"prefix_cache": "on"} if shares else {}),
    )  # fmt: skip
    for id, (i, adapter, at, cancel) in enumerate(jobs):
        stage.add(prompts()[i], params(i), at=at * MS, adapter=adapter)
        if cancel is not None:
            stage.cancel(id, (at + cancel) * MS)
    for (i, adapter, _, cancel), got in zip(jobs, stage.play(), strict=True):
        assert got == wanted(model, i, adapter)[: len(got)]
        assert cancel is not None or len(got) == TOKENS
    assert not +model.adapters.uses, "nobody uses them any more"


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
def test_hundreds_of_preemptions_change_no_token(residency: str, model: Any) -> None:
    """Six rounds of these for both kinds of products and three residencies: more than two thousand in all."""
    total = 0
    for seed in range(6):
        dice = random.Random(seed)
        stage = Stage(model, "chaos", POOL, 3 * POOL, residency=residency, max_batch=3)
        jobs = [(dice.randrange(len(LENGTHS)), dice.choice(ADAPTERS)) for _ in range(24)]
        for i, adapter in jobs:
            stage.add(prompts()[i], params(i), at=dice.randrange(60) * MS, adapter=adapter)
        assert stage.play() == [wanted(model, i, adapter) for i, adapter in jobs]
        total += sum(stage.preemptions)
    assert total >= 350


def test_drafts_are_the_bases_and_answers_are_not(model: Any) -> None:
    """The model guesses for itself, without adapters: right for the base's requests, mostly wrong for the others."""
    stage = Stage(model, "chaos", POOL + 4, 3 * POOL, max_batch=4, speculate=f"draft:{model.name}:2")
    jobs = [(i, ADAPTERS[(i + turn) % 4]) for turn in range(2) for i in range(len(LENGTHS))]
    for i, adapter in jobs:
        stage.add(prompts()[i], params(i), adapter=adapter)
    assert stage.play() == [wanted(model, i, adapter) for i, adapter in jobs]
    assert 0 < stage.backend.accepted < stage.backend.drafted


def test_a_prompt_under_two_adapters_shares_nothing(model: Any) -> None:
    """Of four requests with one prompt, each with an adapter of its own, none finds what another has computed; a
    second round finds all of it.
    """
    prompt = prompts()[2]
    for adapter in ADAPTERS:
        assert wanted(model, 2, adapter)
    stage = Stage(model, "fcfs", 8 * POOL, 0, prefix_cache="on", max_batch=1)
    for adapter in (*ADAPTERS, *ADAPTERS):
        stage.add(prompt, params(2), adapter=adapter)
    assert stage.play() == [wanted(model, 2, adapter) for adapter in (*ADAPTERS, *ADAPTERS)]
    found = [int(request.record["cached_tokens"]) for request in stage.requests]
    assert found[:4] == [0, 0, 0, 0]
    assert all(tokens >= len(prompt) - 2 * BLOCK for tokens in found[4:])


# -- of a running engine -----------------------------------------------------------------------------------------------


@pytest.fixture
def engine(folder: Path) -> Any:
    tiny(folder / "base")
    for seed, (name, how) in enumerate(HOW.items()):
        if not (folder / name).is_dir():
            write_adapter(folder / name, folder / "base", seed, **how)
    body = Body(str(folder / "base"), dtype="float32", latency="opt-13b-a100", lora=(f"a={folder / 'a'}",))
    with body.engine(EngineConfig.of({"policy": "fcfs", "max_batch": 4, "kv_tokens": 4096})) as made:
        yield made


GREEDY_30 = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)


def tokens(engine: Engine, adapter: str) -> list[int]:
    return engine.generate([prompts()[2]], GREEDY_30, adapter)[0].token_ids


def test_they_come_and_go_while_it_runs(engine: Engine, folder: Path) -> None:
    """One that comes or goes changes nothing of who runs; another of the same name finds nothing of the first's KV."""
    base, a = tokens(engine, ""), tokens(engine, "a")
    assert base != a and list(engine.adapters.loaded) == ["a"]
    with pytest.raises(UnknownAdapterError, match="no adapter 'b' is loaded; those that are: a"):
        engine.submit(prompts()[2], GREEDY_30, adapter="b")
    running = [engine.submit(prompts()[2], SamplingParams(max_tokens=150, temperature=0, ignore_eos=True), adapter=name)
               for name in ("a", "", "a")]  # fmt: skip
    loaded = engine.adapters.load("b", str(folder / "b"))
    assert loaded.rank == 9 and loaded.bytes > 0
    b = tokens(engine, "b")
    assert b not in (base, a)
    for handle, want in zip(running, (a, base, a), strict=True):
        assert handle.result(60).token_ids[:30] == want
    engine.adapters.unload("b")
    with pytest.raises(UnknownAdapterError, match="no adapter 'b'"):
        engine.submit(prompts()[2], GREEDY_30, adapter="b")
    engine.adapters.load("b", str(folder / "c"))
    again = engine.submit(prompts()[2], GREEDY_30, adapter="b").result(60)
    assert again.token_ids != b and again.cached_tokens == 0
    assert tokens(engine, "") == base and tokens(engine, "a") == a


def test_one_in_use_stays(engine: Engine) -> None:
    said: list[str] = []

    def unload(piece: Piece) -> None:
        """On the engine's thread, so between two of its steps: at its first token, and not at its last."""
        if piece.index == 0:
            with pytest.raises(AdapterInUseError) as refused:
                engine.adapters.unload("a")
            said.append(str(refused.value))

    assert len(engine.submit(prompts()[0], GREEDY_30, adapter="a", listener=unload).result(60).token_ids) == 30
    assert said == ["adapter 'a' is in use by 1 requests: unload it when they have ended"]
    engine.adapters.unload("a")
    assert not engine.adapters.loaded


def test_one_that_goes_before_its_request_comes_fails_that_alone(engine: Engine) -> None:
    with engine.inbox.condition:
        late = engine.submit(prompts()[0], GREEDY_30, adapter="a", arrival=engine.now() + 0.3)
    engine.adapters.unload("a")
    output = late.result(60)
    assert output.finish_reason == "error" and "unloaded before this request began" in str(output.error)
    assert engine.alive and tokens(engine, "")


def test_a_bad_one_hurts_nobody(engine: Engine, folder: Path, tmp_path: Path) -> None:
    handle = engine.submit(prompts()[0], SamplingParams(max_tokens=100, temperature=0, ignore_eos=True), adapter="a")
    for path in (tmp_path, folder / "base", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="adapter"):
            engine.adapters.load("bad", str(path))
    assert len(handle.result(60).token_ids) == 100
    assert list(engine.adapters.loaded) == ["a"] and engine.alive


def test_a_body_without_adapters_says_so() -> None:
    with Engine.scripted(max_batch=2) as engine:
        assert not engine.adapters.loaded
        with pytest.raises(UnknownAdapterError, match="there is none"):
            engine.submit([1, 2], adapter="a")
        with pytest.raises(ValueError, match="backend scripted takes no adapters"):
            engine.adapters.load("a", "a")


def test_a_closed_engine_loads_none(folder: Path, engine: Engine) -> None:
    engine.close()
    with pytest.raises(RuntimeError, match="the engine has stopped"):
        engine.adapters.load("b", str(folder / "b"))
