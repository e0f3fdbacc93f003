"""Backend: the protocol of a device that executes one iteration of a Plan.

It works on token ids only. Detokenization, stop strings, finish reasons and clients are the engine's
(engine/output_processor.py). Capabilities are data, in Traits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from fastserve.engine.adapters import Adapter
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.hardware import Hardware
from fastserve.sched.config import SchedulerConfig
from fastserve.sched.job import Copy, Job
from fastserve.sched.plan import Plan, Transfer
from fastserve.sched.units import Ids

Exact = Literal["always", "same-composition", "no"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a body can."""

    swaps: bool = True
    """It keeps KV on the host and copies it back; else who leaves computes again."""
    exact: Exact = "no"
    """Whether tokens do not depend on preemption: always, while the batch is composed alike, or not at all."""
    uneven: bool = False
    """A job may get no token in an iteration, or several; else each that is due gets exactly one."""
    lookahead: int = 0
    """Tokens beyond the next one that a step may write for a job, drafts that come to nothing included."""
    constrains: bool = False
    """It keeps to logit_bias, allowed_token_ids, bad_token_ids and choice_token_ids; else such requests are refused."""
    reports_cached: bool = False
    """It says itself which prefixes it found in its cache."""
    modelled: bool = False
    """Its tokens mean nothing: it reads no prompt, so a replay of a trace says itself what its answers are."""
    shares: bool = False
    """It shares KV by content as its plans say, see Sharing; else prefixes are not cached."""
    lacks: frozenset[str] = frozenset()
    """Fields of SamplingParams that it does not keep to: a request that gives them is refused."""
    slots: int | None = None
    """Jobs that it can run at once: the batch cap is at most that. None: as many as memory holds."""
    adapts: bool = False
    """It runs each request with an adapter of its own, see Adapting; else such requests are refused."""
    estimates: bool = False
    """Numbers of tokens are estimates, of text whose tokenizer is not known; see Ended.counted."""


class Token(NamedTuple):
    """One token of one job. logprob, top (likeliest ids and their logprobs): for requests that ask for them."""

    id: int
    logprob: float | None = None
    top: dict[int, float] | None = None


class Failed(NamedTuple):
    """The job's own request failed in this step, and no other. error: what its client is told."""

    error: str


class Ended(NamedTuple):
    """The body itself has ended the job, after these tokens, if any: an end that no token id says.

    reason: stop or length. counted: tokens of the prompt and of the output, as the body counted them, where the job's
    own numbers are estimates.
    """

    tokens: Sequence[Token]
    reason: str = "stop"
    counted: tuple[int, int] | None = None


Result = Sequence[Token] | Ended | Failed


@dataclass(slots=True, eq=False)
class Step:
    """What one iteration of a Plan came to. Times in ns.

    results: for each job that was due a token, in any order: what it got. Due are those that decode and those whose
    prefill this iteration ended; a body that is uneven leaves out who got none.
    stall: that the iteration waited for copies. copied: the copies that have ended by now, each reported once, the
    plan's `clear` and `load` among them. service: of a modelled machine, what the iteration took without the stall:
    the engine's clock goes there; None: what the clock says. model_ns: of real time, in the model or waiting for it.
    transfers: of a modelled link, the copies that this plan asked for, with their ends; None: nobody knows these yet.
    drafts: (job, drafted, accepted) of each job that verified guesses of its next tokens: how many, and how many of
    them, from the first one on, were right; its result has the right ones and the token behind them.
    """

    results: Sequence[tuple[Job, Result]]
    stall: int = 0
    copied: Sequence[Copy] = ()
    service: int | None = None
    model_ns: int = 0
    transfers: Sequence[Transfer] | None = None
    drafts: Sequence[tuple[Job, int, int]] = ()


class Backend(Protocol):
    """Called by the engine's thread alone, except that info and traits, which never change, may be read by any.

    What one request does wrong fails that request alone: admit() raises, or its entry in Step.results is Failed. run()
    raises MemoryError when the device has no room for the step, and anything else when the step itself failed; no job
    has then got a token, and its KV is as it may be until reset() has made it empty.
    """

    info: ModelInfo
    traits: Traits

    def hardware(self) -> Hardware:
        """Its times, memory and link, which the Scheduler and its policy are told; asked once, before any request."""
        ...

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        """Before Scheduler.submit. params: resolved. seed: of its draws. What it raises fails this request."""
        ...

    def run(self, plan: Plan) -> Step:
        """One iteration."""
        ...

    def forget(self, job: Job) -> None:
        """It has departed. Copies of its KV that are under way still end and are reported."""
        ...

    def reset(self) -> None:
        """All KV is gone and no copy is under way; the jobs stay, and will be asked for their prefill again."""
        ...

    def close(self) -> None:
        """The engine has ended."""
        ...


class Sharing(Backend, Protocol):
    """A body whose traits say that it shares. It follows Plan.found, Plan.evict and Plan.first(), and decides nothing.

    Where host_prefix_tokens are wanted, also Plan.forget and the copies of units in Plan.store and Plan.load.

    What the prefills of a step complete is there for others once the step has run; a copy of what is there already is
    free again. Nothing else that a job computes is shared, but for answer().
    """

    def answer(self, job: Job, ids: Ids) -> None:
        """The job has ended, and been committed; forget() comes next. ids: of the units that prompt and answer fill
        beyond those of the prompt. Those whose KV is complete are idle units from now on, if it shares all of its
        prompt's.
        """
        ...


class Adapting(Backend, Protocol):
    """A body whose traits say that it adapts: its model has adapters beside one copy of its weights."""

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Those that are loaded, by name: never written, another mapping when they change. Any thread."""
        ...

    def admit(
        self, job: Job, prompt: list[int], params: SamplingParams, seed: int, adapter: Adapter | None = None
    ) -> None:
        """Raises where the adapter has gone meanwhile."""
        ...

    def read_adapter(self, name: str, path: str) -> Any:
        """What place_adapter() takes, read and checked; nothing that runs is changed. Any thread, it may take a while.

        Raises ValueError, OSError or MemoryError.
        """
        ...

    def place_adapter(self, ready: Any) -> Adapter:
        """It is quick. Raises ValueError, and then nothing has changed."""
        ...

    def drop_adapter(self, name: str) -> None:
        """Raises UnknownAdapterError, or AdapterInUseError while a job that was admitted with it lives."""
        ...


# -- what launch and the profiler need besides -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an engine's settings ask of the body's memory. None: what the memory allows. Bytes count where tokens are
    not given. swaps: whether the residency uses the host at all. max_batch: the largest batch that matters.
    unit_tokens: of what is shared where prefixes are cached (None: a block). host_prefix_tokens: room on the host for
    units, beside host_tokens.
    """

    block_tokens: int = 16
    kv_tokens: int | None = None
    host_tokens: int | None = None
    kv_bytes: int | None = None
    host_bytes: int | None = None
    swaps: bool = True
    max_batch: int = field(default_factory=lambda: SchedulerConfig().max_batch)
    unit_tokens: int | None = None
    host_prefix_tokens: int = 0

    def in_tokens(self, bytes_per_token: int) -> Wanted:
        """The same with bytes turned into tokens."""
        kv, host = self.kv_tokens, self.host_tokens
        if kv is None and self.kv_bytes is not None:
            kv = self.kv_bytes // bytes_per_token
        if host is None and self.host_bytes is not None:
            host = self.host_bytes // bytes_per_token
        return replace(self, kv_tokens=kv, host_tokens=host, kv_bytes=None, host_bytes=None)

    def reaching(self, lookahead: int) -> Wanted:
        """The same with room for so many tokens beyond the next one: who fits into the pool without still does."""
        if self.kv_tokens is None or not lookahead:
            return self
        return replace(self, kv_tokens=-(-self.kv_tokens // self.block_tokens) * self.block_tokens + lookahead)


class CopyTime(NamedTuple):
    """A copy that was timed on the idle body: the median of a few."""

    out: bool
    bytes: int
    seconds: float


class Timed(NamedTuple):
    """An iteration that was timed: `batch` jobs decode, of `context` tokens in all, beside prefills of `tokens`.

    squared: end^2 - start^2, summed over the prefills.
    """

    batch: int
    context: int
    tokens: int
    squared: int
    ms: float


class VerifyTime(NamedTuple):
    """A step that was timed on the idle body: so many jobs of so many tokens of context each, of which each verifies so
    many guesses; 0: a plain decode.
    """

    batch: int
    context: int
    k: int
    seconds: float


class Profiled(Backend, Protocol):
    """A body that `fastserve profile` can measure and whose profile is found again.

    One whose iterations are not its steps has timed(budget_s, longest, report) -> list[Timed] too, called before any
    request, in place of the load of the profiler. One that verifies guesses has verify_times() -> list[VerifyTime],
    too: of each shape with guesses also the plain decode, and that of as many jobs as it has tokens.
    """

    facts: Mapping[str, Any]  # all that its times depend on, as JSON values

    def use(self, hardware: Hardware, origin: str) -> None:
        """These are its times; hardware() measures none. Its memory stays its own. origin: where they come from."""
        ...

    def copy_times(self) -> list[CopyTime]:
        """Copies by size, each way. Before any request: the contents of the pools are lost."""
        ...


def settings_of(backend: Backend) -> dict[str, Any]:
    """Its own settings as they turned out, for those who show them; `times` says where hardware() comes from."""
    found: Mapping[str, Any] = getattr(backend, "settings", {})
    return dict(found)
