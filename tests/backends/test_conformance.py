"""The checks of conformance.py pass on a backend that works, and each fails on one that is broken in its way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine
from fastserve.engine.backend import Failed, Result, Step, Traits
from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.engine.clock import VirtualClock
from fastserve.engine.config import EngineConfig
from fastserve.engine.params import SamplingParams
from fastserve.launch import Body
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from tests.backends import conformance
from tests.backends.conformance import CHECKS, CONTEXT, Check, Make, tokens_survive


def maker(kind: type[ScriptedBackend]) -> Make:
    def make(**serving: Any) -> Engine:
        body = Body("scripted", f"{kind.__module__}:{kind.__name__}", max_model_len=CONTEXT)
        return body.engine(EngineConfig.of(serving), clock=VirtualClock())

    return make


@pytest.mark.parametrize("check", CHECKS)
def test_the_scripted_backend_conforms(check: Check) -> None:
    check(maker(ScriptedBackend))


# -- broken ones -------------------------------------------------------------------------------------------------------


class Nameless(ScriptedBackend):
    """Nobody is told where its times come from."""

    def __init__(self, *args: Any, max_model_len: int = 2048) -> None:
        super().__init__(*args, max_model_len=max_model_len)
        del self.settings["times"]


class Mute(ScriptedBackend):
    """Its tokenizer takes lists of names alone."""

    def __init__(self, *args: Any, max_model_len: int = 2048) -> None:
        super().__init__(*args, max_model_len=max_model_len)
        self.info = replace(self.info, tokenizer=ListsAlone())


class ListsAlone(ByteTokenizer):
    def convert_tokens_to_ids(self, tokens: Any) -> list[int | None]:
        return [None for _ in list(tokens)]


class Drifting(ScriptedBackend):
    """What it says depends on how many are in the step."""

    batch = 0

    def run(self, plan: Plan) -> Step:
        self.batch = len(plan.work)
        return super().run(plan)

    def _speak(self, job: Job) -> Result:
        (token,) = super()._speak(job)
        return (token._replace(id=self.tokens[(token.id + (self.batch < 3)) % len(self.tokens)]),)  # type: ignore[union-attr]


class Inexact(Drifting):
    """The same, and says so."""

    traits = replace(ScriptedBackend.traits, exact="no")


class Boastful(Drifting):
    """The same, and says that its tokens depend on the composition of a step."""

    traits = replace(ScriptedBackend.traits, exact="same-composition")


class Forgetful(Boastful):
    """And not even that is true: KV that comes back is not what it was."""

    back: frozenset[Job] = frozenset()

    def run(self, plan: Plan) -> Step:
        self.back |= frozenset(copy.job for copy in [*plan.load, *plan.prefetch])
        return super().run(plan)

    def _speak(self, job: Job) -> Result:
        (token,) = super()._speak(job)
        return (token._replace(id=32) if job in self.back else token,)  # type: ignore[union-attr, return-value]


class Hoarding(ScriptedBackend):
    """Keeps what belongs to a job that is cancelled."""

    def forget(self, job: Job) -> None:
        if job.finish not in ("", "cancelled", "timeout"):
            super().forget(job)

    def held(self) -> dict[str, int]:
        return {"jobs": sum(1 for job in self.scripts if job.finish)}


class Fragile(ScriptedBackend):
    """Cannot forget a job that has not said anything yet."""

    def forget(self, job: Job) -> None:
        if not job.generated:
            raise KeyError(job.id)
        super().forget(job)


class Confused(ScriptedBackend):
    """After a reset it goes on with other tokens."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1
        super().reset()

    def _speak(self, job: Job) -> Result:
        script = self.scripts[job]
        self.scripts[job] = script._replace(seed=script.seed + self.resets)
        try:
            return super()._speak(job)
        finally:
            self.scripts[job] = script


class Careless(ScriptedBackend):
    """Forgets its jobs with their KV."""

    def reset(self) -> None:
        super().reset()
        self.scripts.clear()


class OnceOnly(ScriptedBackend):
    """Breaks when it is closed again."""

    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


class Lingering(ScriptedBackend):
    """Closing leaves its jobs where they are."""

    def forget(self, job: Job) -> None: ...

    def close(self) -> None:
        self.link.forget()


class Wordy(ScriptedBackend):
    """Takes no prompt of a single token."""

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        if len(prompt) < 2:
            raise ValueError("a prompt of one token")
        super().admit(job, prompt, params, seed)


class Cramped(ScriptedBackend):
    """Has no room for the last token of its context."""

    def _speak(self, job: Job) -> Result:
        if job.prompt + job.generated + 1 >= CONTEXT:
            return Failed("no room")
        return super()._speak(job)


class Blunt(ScriptedBackend):
    """Does not say what is wrong with an adapter."""

    traits = replace(ScriptedBackend.traits, adapts=True)
    adapters: ClassVar[dict[str, Any]] = {}

    def read_adapter(self, name: str, path: str) -> Any:
        raise KeyError(path)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Nameless, conformance.names_itself),
        (Mute, conformance.speaks_text),
        (Drifting, conformance.tokens_survive),
        (Forgetful, conformance.tokens_survive),
        (Drifting, conformance.cancels),
        (Hoarding, conformance.cancels),
        (Hoarding, conformance.times_out),
        (Hoarding, conformance.leaks_nothing),
        (Fragile, conformance.cancels),
        (Fragile, conformance.times_out),
        (Confused, conformance.runs_out_of_memory),
        (Confused, conformance.starts_over),
        (Careless, conformance.runs_out_of_memory),
        (Careless, conformance.starts_over),
        (OnceOnly, conformance.closes_twice),
        (Lingering, conformance.closes_twice),
        (Lingering, conformance.leaks_nothing),
        (Wordy, conformance.prompts_of_one_token),
        (Cramped, conformance.longest_context),
        (Blunt, conformance.knows_its_adapters),
    ],
)
def test_one_that_is_broken_fails(kind: type[ScriptedBackend], check: Check) -> None:
    with pytest.raises((AssertionError, RuntimeError, KeyError, TypeError, TimeoutError)):
        check(maker(kind))


def test_each_check_fails_for_somebody() -> None:
    (mark,) = test_one_that_is_broken_fails.pytestmark  # type: ignore[attr-defined]
    assert {check for _, check in mark.args[1]} == set(CHECKS)


def test_what_is_not_exact_is_counted() -> None:
    found = tokens_survive(maker(Inexact))
    assert 0 < found.same < found.outputs and len(found.other) == found.outputs - found.same
    assert (
        str(found) == f"{found.same} of {found.outputs} outputs as undisturbed, after {found.preemptions} preemptions"
    )
    assert tokens_survive(maker(Boastful)).same < found.outputs


def test_one_without_a_host_pool_is_asked_for_recompute_alone() -> None:
    found = tokens_survive(maker(Swapless))
    assert found.same == found.outputs and found.preemptions


class Swapless(ScriptedBackend):
    traits = Traits(swaps=False, exact="always", modelled=True)
