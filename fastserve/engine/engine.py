"""Engine: the facade for scripts, the server and the benchmarks. Any thread may call it.

with Engine.from_pretrained("embedded", policy="sj-mlfq", max_batch=16) as engine:
    outputs = engine.generate(["Once upon a time"], SamplingParams(max_tokens=64))
    for piece in engine.submit("Hello"):
        print(piece.text, end="")
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve.engine.adapter_loading import Loading
from fastserve.engine.backend import Backend, settings_of
from fastserve.engine.clock import Clock, WallClock
from fastserve.engine.config import EngineConfig
from fastserve.engine.inbox import Inbox
from fastserve.engine.input_processor import InputProcessor, QueueFull
from fastserve.engine.lifecycle import Lifecycle
from fastserve.engine.loop import Loop
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Handle, Listener, Output, Replayed, Request
from fastserve.engine.snapshot import Snapshot, take
from fastserve.flightlog.write import FlightLog
from fastserve.hardware import DEFAULT
from fastserve.metrics.records import Columns, Recorder
from fastserve.named_models import EMBEDDED
from fastserve.observers.live_feed import LiveFeed, Watcher
from fastserve.sched.errors import RefusedError
from fastserve.sched.observer import Observer
from fastserve.sched.residency import RESIDENCIES

if TYPE_CHECKING:
    from os import PathLike


__all__ = ["Engine", "QueueFull", "RefusedError"]

log = logging.getLogger("fastserve")

Prompt = str | Sequence[int]
Seen = TypeVar("Seen")


class Engine:
    """Made by from_pretrained(), scripted() or on(); closed by close(), as a context manager, or when nobody holds it
    or a Handle of it any more. Threads do not survive a fork: make it in the process that uses it.

    settings: all of them, defaults filled in. info: what it knows of its model and its body.
    """

    def __init__(self, backend: Backend, serving: EngineConfig, clock: Clock | None = None) -> None:
        if not backend.traits.swaps and RESIDENCIES[serving.residency].swaps:
            log.info("backend %s keeps no KV on the host: who leaves computes again", backend.info.backend)
            serving = replace(serving, residency="recompute")
        serving = serving.sharing(backend.info.backend, backend.traits.shares).within(backend.traits.slots)
        serving = replace(serving, lookahead=max(serving.lookahead, backend.traits.lookahead))
        clock = clock or WallClock()
        info, hardware = backend.info, backend.hardware()
        policy = serving.policy.fresh()
        scheduler = serving.scheduler(policy, hardware, info.max_model_len)
        budget = scheduler.batching.budget if serving.batching == "chunked" else None
        latency = hardware.latency
        self.inbox = Inbox()
        names = serving.names(hardware)
        self.input_processor = InputProcessor(info, serving, clock, self.inbox, backend.traits.constrains, names,
                                              backend.traits.lacks)  # fmt: skip
        recorder = Recorder(
            hardware.memory.block_bytes,
            lambda prompt, output: latency.alone_ps(prompt, output, budget),
            self.input_processor.slo_of,
            keep=serving.keep_records,
        )
        self.info = info
        self.serving = serving
        self.hardware = hardware
        self.clock = clock
        own = settings_of(backend)
        self.machine = own.pop("times", "the body's own")  # in words: where the times that the policy is told come from
        self.settings = {"model": info.name, "backend": info.backend, "latency": hardware.name,
                         "max_model_len": info.max_model_len, **own, **serving.shown(hardware),
                         "derived": serving.policy.told(policy).get("derived", {})}  # fmt: skip
        self.started_at = time.time() - clock.now() / 1e9  # s since 1970 at which the engine's clock read 0
        self.loop = Loop(scheduler, backend, recorder, clock, self.inbox, self.settings, names)
        self.feed = LiveFeed()
        if serving.flight_log is not None:
            header = {"backend": info.backend, **serving.header(hardware, info.max_model_len)}
            header |= {"tokens": "estimated"} if backend.traits.estimates else {}
            self.loop.observers.attach(FlightLog(serving.flight_log, header))
        self.adapters = Loading(self.loop)
        self._lifecycle = Lifecycle(self.loop)  # its thread holds the loop, and the loop nothing that holds this object
        weakref.finalize(self, self._lifecycle.drop).atexit = False

    # -- requests --------------------------------------------------------------------------------------------------

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        client: str = "",
        program: str = "",
        cache_salt: str = "",
        tool: str = "",
        calls: str = "",
        final: bool = False,
        priority: int = 0,
        deadline_s: float | None = None,
        ttft_slo_s: float | None = None,
        tpot_slo_s: float | None = None,
        timeout_s: float | None = None,
        arrival: float | None = None,
        listener: Listener | None = None,
        beyond_capacity: bool = False,
        prepared: bool = False,
        replayed: Replayed | None = None,
        adapter: str = "",
    ) -> Handle:
        """Takes a request and returns at once.

        program: the session or agent run that it belongs to; by default that of the request whose text it goes on with,
        see fastserve.engine.programs. cache_salt: its KV is shared only with requests of the same one. tool: whose
        result its prompt brings. calls: the tool that its answer will call, where that is known beforehand. final:
        nothing of its program follows it. deadline_s: when it should have ended, s after its arrival. ttft_slo_s: when
        it should have said its first token; without a deadline_s it is the deadline that a policy sees. tpot_slo_s: s
        for each later token. All three are in the records. timeout_s: s after its arrival, when it is cancelled with
        finish reason timeout. arrival: s of now(); one to come is waited for, a past one counts as waiting (None: now).
        listener: called with every piece on the engine's thread; it must be quick. beyond_capacity: neither refused for
        nor counted towards the bound of the queue. prepared: params are of prepare(), for this prompt. replayed: what
        only the driver of a trace says. adapter: one that is loaded, by name; empty: the base model alone.

        Raises ValueError for what is wrong with it, RefusedError (a ValueError) when it can never fit, QueueFull,
        RuntimeError when the engine is closed or broken.
        """
        self.inbox.check_process()
        if not self.alive:
            raise RuntimeError(f"the engine has stopped: {self.error or 'it was closed'}")
        if replayed is not None and replayed.units is not None and not self.loop.backend.traits.modelled:
            raise ValueError(f"units: backend {self.info.backend} reads its prompts, which say what they share")
        request = self.input_processor.admit(
            self.loop.scheduler, prompt, params, client=client, program=program, cache_salt=cache_salt, tool=tool,
            calls=calls, final=final, priority=priority, deadline_s=deadline_s, ttft_slo_s=ttft_slo_s,
            tpot_slo_s=tpot_slo_s, timeout_s=timeout_s, arrival=arrival, listener=listener,
            beyond_capacity=beyond_capacity, prepared=prepared, replayed=replayed,
            adapter=self.adapters.find(adapter) if adapter else None,
        )  # fmt: skip
        return Handle(request, self._cancel)

    def end_program(self, program: str) -> None:
        """Nothing more of it will come: its policy hears of it before the next iteration. Requests of it go on."""
        self.input_processor.programs.end(program)
        self.inbox.end_program(program)

    def reset_prefix_cache(self) -> bool:
        """Cached prefixes that no live request holds are forgotten before the next iteration. Returns whether none is
        left, as vLLM's does: False while live requests hold some, which stay and can be found; ask again when these
        have ended. True too where prefixes are not cached. RuntimeError when the engine is closed or broken.
        """
        try:
            empty: bool = self.inbox.ask(self.loop.reset_prefix_cache).result()
        except CancelledError:
            raise RuntimeError(f"the engine has stopped: {self.error or 'it was closed'}") from None
        return empty

    def prepare(self, prompt: Sequence[int], params: SamplingParams) -> SamplingParams:
        """What submit() makes of the parameters for this prompt: the model's defaults, words as token ids.

        It may take a while with many words; several outputs of a prompt can share it (SamplingParams.seeded). Any
        thread. Raises ValueError.
        """
        return self.input_processor.prepare(prompt, params)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Meanwhile the bound of the queue counts a request that is not submitted yet. Raises QueueFull."""
        self.input_processor.take_place(self.loop.scheduler.slots)
        try:
            yield
        finally:
            self.input_processor.give_place()

    def _cancel(self, request: Request, reason: str) -> None:
        """A Handle holds this method, and with it the engine."""
        self.inbox.cancel(request, reason)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None,
        adapter: str = "",
    ) -> list[Output]:  # fmt: skip
        """Waits for all. prompts: one prompt (text or token ids) or a list of them; params: one for all, or one each.
        adapter: of all.

        Raises as submit() does, and then none of them goes on; RuntimeError on the engine's own thread.
        """
        if self._lifecycle.here:
            raise RuntimeError("generate() waits for the engine, and this is the engine's own thread: call submit()")
        batch: list[Prompt]
        if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], Integral)):
            batch = [prompts]  # type: ignore[list-item]
        else:
            batch = list(prompts)  # type: ignore[arg-type]
        each = list(params) if isinstance(params, Sequence) else [params] * len(batch)
        if len(each) != len(batch):
            raise ValueError(f"{len(each)} sampling parameters for {len(batch)} prompts: give one, or one each")
        handles: list[Handle] = []
        try:
            for prompt, own in zip(batch, each, strict=True):
                handles.append(self.submit(prompt, own, beyond_capacity=True, adapter=adapter))
            return [handle.result() for handle in handles]
        except BaseException:
            for handle in handles:
                handle.cancel()
            raise

    # -- what can be seen ------------------------------------------------------------------------------------------

    def snapshot(self, most: int = 1000) -> Snapshot:
        """The state between two iterations. most: waiting jobs that are listed."""
        return self.look(lambda: take(self.loop, most, self.serving.name))

    def records(self) -> Columns:
        """Of the requests that have ended, by id: see fastserve.metrics.records.COLUMNS.

        Of an engine that has stopped by itself also of those that it left, as unfinished.
        """
        return self.look(self.loop.recorder.columns)

    def look(self, at: Callable[[], Seen]) -> Seen:
        """What this call returns on the engine's thread between two iterations. It must be quick and change nothing."""
        try:
            seen: Seen = self.inbox.ask(at).result()
        except CancelledError:
            self._lifecycle.thread.join()
            return at()
        return seen

    def attach(self, observer: Observer) -> None:
        """From the next iteration on it is told what happens, on the engine's thread; it must be quick.

        At once for the requests that this thread submits next. RuntimeError when the engine is closed or broken.
        """
        if self.inbox.ask(lambda: self.loop.observers.attach(observer, self.loop.now), first=True).cancelled():
            raise RuntimeError(f"the engine has stopped: {self.error or 'it was closed'}")

    def detach(self, observer: Observer) -> None:
        """Returns when it is told nothing more. What has been detached, or has been left out because it raised, is
        left alone.
        """
        with suppress(CancelledError):
            self.inbox.ask(lambda: self.loop.observers.detach(observer, self.loop.now)).result()

    def add_watcher(self, watcher: Watcher) -> None:
        """It is called with every event of fastserve.observers.live_feed, on the engine's thread; it must be quick."""
        self.feed.add(watcher)
        self.inbox.ask(lambda: self.loop.observers.attach(self.feed, self.loop.now), first=True)

    def remove_watcher(self, watcher: Watcher) -> None:
        self.feed.remove(watcher)
        if not self.feed.looked_at:
            self.inbox.ask(self._leave_feed, first=True)

    def _leave_feed(self) -> None:
        if not self.feed.looked_at:
            self.loop.observers.detach(self.feed, self.loop.now)

    def now(self) -> float:
        """s of the engine's clock, which read 0 when it was made."""
        return self.clock.now() / 1e9

    @property
    def alive(self) -> bool:
        return self.loop.alive and not self.inbox.closed and not self.inbox.forked

    @property
    def error(self) -> str | None:
        """Why it has stopped by itself: a broken policy, or a bug."""
        return self.loop.error

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.loop.counters)

    @property
    def estimates(self) -> bool:
        """Whether numbers of tokens are estimates, see Traits.estimates."""
        return self.loop.backend.traits.estimates

    @property
    def tokenizer(self) -> Any:
        """encode, decode, apply_chat_template; or None."""
        return self.info.tokenizer

    @property
    def model_name(self) -> str:
        return self.info.name

    @property
    def max_model_len(self) -> int:
        return self.info.max_model_len

    @property
    def vocab_size(self) -> int:
        return self.info.vocab_size

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.info.eos_ids

    def start_line(self) -> str:
        """One line: the model and its body, the policy, the pools, and where the machine's times come from."""
        memory = self.hardware.memory
        host = memory.host_blocks
        pool = "unlimited" if memory.device_tokens is None else f"{memory.device_tokens:,} tokens"
        beside = "unlimited" if host is None else f"{host * memory.block_tokens:,} tokens"
        what = ", ".join(filter(None, (self.info.device, self.info.dtype)))
        body = f"{self.info.backend} ({what})" if what else self.info.backend
        serving = self.serving
        cache = serving.prefix_cache
        if cache == "on" and serving.host_prefix_tokens:
            cache += f" ({serving.host_prefix_tokens:,} tokens on the host)"
        return (f"{self.info.name} on {body}, policy {serving.name}, batch cap {serving.max_batch}, KV pool {pool}, "
                f"host {beside}, {serving.residency}, prefix cache {cache}; times: "
                f"{self.hardware.name} ({self.machine})")  # fmt: skip

    # -- its life --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Who has not ended is cancelled; returns when the engine's thread has ended and its memory is free."""
        self._lifecycle.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- how to make one: launch knows the bodies, and is imported when it is asked ---------------------------------

    @staticmethod
    def on(backend: Backend, *, clock: Clock | None = None, **serving: Any) -> Engine:
        """An engine on a body. clock: real time by default. serving: see EngineConfig."""
        return Engine(backend, EngineConfig.of(serving), clock)

    @staticmethod
    def scripted(
        *,
        latency: str | PathLike[str] = DEFAULT,
        realtime: bool | float = False,
        max_model_len: int = 2048,
        fail: Any = None,
        fail_step: Any = None,
        **serving: Any,
    ) -> Engine:
        """An engine without a model or torch. What it says depends on each request's seed alone.

        latency: the modelled machine; its pools are the default. realtime: False: no waiting at all, times are the
        model's; a number: real time, so many times as fast. fail, fail_step: see backends.scripted. serving:
        see EngineConfig.
        """
        from fastserve.launch import scripted

        return scripted(
            EngineConfig.of(serving), latency=latency, realtime=realtime, max_model_len=max_model_len, fail=fail,
            fail_step=fail_step,
        )  # fmt: skip

    @staticmethod
    def from_pretrained(
        model: str = EMBEDDED,
        *,
        backend: str = "torch",
        latency: str | PathLike[str] | None = None,
        **settings: Any,
    ) -> Engine:
        """An engine on a Hugging Face model by id or path, a GGUF file, or one of fastserve.named_models.

        backend (or backend_type): a name of fastserve.backends, module:Class or ./file.py:Class.
        latency: the times that the policy is told: a preset or file (None: a stored profile for this model, dtype,
        device and threads, else about a second of measuring). settings: those of EngineConfig, and the options of the
        backend: device, dtype, threads, ..., see fastserve.backends.options; what a backend does not have must be left
        at its default. use_ollama=True, ollama_model=NAME: Ollama on this machine.
        """
        from fastserve.launch import from_pretrained

        return from_pretrained(model, backend, latency, settings)
