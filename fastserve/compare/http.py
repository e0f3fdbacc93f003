"""HttpBody: comparison over HTTP, with a `fastserve serve` for each run or running servers, and the bench client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastserve import predictors
from fastserve.bench.api import HttpApi
from fastserve.bench.api_formats import Completions, Native, RequestOptions
from fastserve.bench.call import Call
from fastserve.bench.event_loop import on_best_loop, undisturbed
from fastserve.bench.loop import Progress, run
from fastserve.bench.prompts import IdPrompts, ids_of
from fastserve.bench.result import LATE_NS, Result
from fastserve.bench.schedule import calls_of
from fastserve.bench.target import Target, TargetClient, TargetError
from fastserve.compare.compare import CompareError, Replay, Watch
from fastserve.compare.contender import Contender, Server
from fastserve.compare.subprocess_server import ServerError, ServerProcess
from fastserve.compare.trace import check_fits, warm_up
from fastserve.policies.spec import PolicySpec, told_by
from fastserve.workload import Trace
from fastserve.workload.requests import guesses_of

TIMEOUT_S = 3600.0
"""s after which a request times out, which fails its run."""
LOOK_S = 0.25
MEASURED = "measured at load"
"""In a server's start line: no profile was stored or given."""


class HttpBody:
    """flags: of `fastserve serve`, for every contender that is a policy; each run has a fresh server of its own.
    about: the same settings, for the result; `max_batch` among them. start_s: how long a server may take to start.

    Our own servers get an output's length by stop_after, and max_tokens is one constant, so that the length is hidden.
    Other servers, by url, get max_tokens and ignore_eos, and are neither started nor stopped here.
    """

    def __init__(
        self, flags: Sequence[str], about: Mapping[str, Any], *, start_s: float = 600.0, predictor: str = "oracle"
    ) -> None:
        self.predictor = predictor
        self.flags = list(flags)
        self.about = {"body": "http", **about, "predictor": predictor}
        self.start_s = start_s

    def check(self, contender: Contender) -> None:
        if isinstance(contender, PolicySpec):
            contender.check()

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        if isinstance(contender, Server):
            return self._replay(contender, contender.url, None, trace, seed, watch)
        try:
            with ServerProcess(self._flags(contender, len(trace)), start_s=self.start_s) as server:
                return self._replay(contender, server.url, server, trace, seed, watch)
        except ServerError as error:
            raise CompareError(str(error)) from None

    def machine(self) -> dict[str, Any]:
        from fastserve.profiler.load import machine  # torch: not before everything is measured

        return machine()

    def _flags(self, contender: PolicySpec, requests: int) -> list[str]:
        own = ["--policy", contender.path, "--queue-capacity", str(requests), "--request-timeout", "0",
               "--drain-seconds", "0", "--log-level", "warning"]  # fmt: skip
        for key, value in contender.knobs.items():
            own += ["--set", f"{key}={value!r}"]
        if contender.needs_guess:
            own += ["--predictor", "client"]
        return [*self.flags, *own]

    def _replay(
        self, contender: Contender, url: str, server: ServerProcess | None, trace: Trace, seed: int, watch: Watch | None
    ) -> Replay:
        try:
            target = TargetClient(url).probe()
        except TargetError as error:
            raise CompareError(str(error)) from None
        if target.max_model_len is not None:
            check_fits(trace, target.max_model_len, next(iter(target.models), url))
        self._send(contender, url, target, warm_up(trace), seed + 1, None, server, "oracle")
        result = self._send(contender, url, target, trace, seed, watch, server, self.predictor)
        return Replay(result.columns(), result.summary(), notes(result, target, server))

    def _send(
        self, contender: Contender, url: str, target: Target, trace: Trace, seed: int, watch: Watch | None,
        server: ServerProcess | None, predictor: str,
    ) -> Result:  # fmt: skip
        calls = calls_for(trace, target, seed, guesses=contender.needs_guess, predictor=predictor)
        api = api_for(url, target)
        with undisturbed():
            result, _ = on_best_loop(_watched(calls, api, watch))
        failed = [one.reply.error for one in result.samples if not (one.reply.completed or one.reply.truncated)]
        if failed:
            if server is not None:
                server.check()
            raise CompareError(f"{len(failed)} of {len(calls)} requests failed: {failed[0]}")
        return result


def calls_for(
    trace: Trace, target: Target, seed: int, *, guesses: bool = False, predictor: str = "oracle"
) -> list[Call]:
    """The calls for a server, the same for all contenders. guesses: with those of `predictor`."""
    made = predictors.make(predictor, seed, guesses_of(trace)) if guesses else None
    prompts = IdPrompts(*ids_of(target.vocab_size), seed)
    plain = trace if guesses else replace(trace, guess=None)
    return calls_of(plain, prompts, predictor=made, max_model_len=target.max_model_len)


def api_for(url: str, target: Target) -> HttpApi:
    """Native streams of our own servers, which report preemptions; /v1/completions of others."""
    model = next(iter(target.models), None)
    options = RequestOptions(model=model, hide_lengths=target.own, ignore_eos=True, own=target.own, temperature=0.0)
    return HttpApi(url, Native(options) if target.own else Completions(options))


def notes(result: Result, target: Target, server: ServerProcess | None) -> dict[str, Any]:
    """Facts of a run. warnings: sentences, equal for equal problems."""
    lag = float(np.percentile(result.lags_ms(), 99))
    start_line = "" if server is None else server.start_line
    wrong = result.count(lambda sample: sample.reply.tokens != sample.call.request.output)
    warnings = []
    if result.late:
        warnings.append(f"late: the client's p99 lag was above {LATE_NS / 1e6:g} ms, not the scheduled load; "
                    f"give it a core of its own or lower the rate")  # fmt: skip
    if wrong:
        warnings.append("outputs have other lengths than requested, so that the work is not the same")
    if not target.own:
        warnings.append("a server that is not ours was told each length, by max_tokens with ignore_eos")
    if MEASURED in start_line:
        warnings.append("each server measured its latency model at its start, with small differences; run `fastserve "
                    "profile` first, or give --latency")  # fmt: skip
    return {
        "lengths": "hidden" if target.own else "told",
        "late": result.late,
        "dispatch_lag_p99_ms": lag,
        "wrong_outputs": wrong,
        "server": start_line,
        "policy": told_by(target.settings),
        "warnings": warnings,
    }


async def _watched(calls: Sequence[Call], api: HttpApi, watch: Watch | None) -> Result:
    looks: list[asyncio.Task[None]] = []

    async def look(progress: Progress) -> None:
        while watch is not None:
            watch(progress.done)
            await asyncio.sleep(LOOK_S)

    def begin(progress: Progress) -> None:
        looks.append(asyncio.create_task(look(progress)))

    try:
        return await run(calls, api, timeout_s=TIMEOUT_S, watch=begin)
    finally:
        for task in looks:
            task.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        api.close()
