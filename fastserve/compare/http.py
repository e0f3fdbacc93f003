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
from fastserve.bench.call import CANCELLED, REJECTED, UNFINISHED, Call
from fastserve.bench.event_loop import on_best_loop, undisturbed
from fastserve.bench.loop import Progress, run
from fastserve.bench.prompts import IdPrompts, ids_of
from fastserve.bench.result import LATE_NS, Result
from fastserve.bench.schedule import calls_of, requests_for
from fastserve.bench.session_calls import AlikePrompts, SessionCalls
from fastserve.bench.session_loop import run_sessions
from fastserve.bench.target import Target, TargetClient, TargetError
from fastserve.compare.compare import CompareError, Replay, Watch
from fastserve.compare.contender import Contender, Server
from fastserve.compare.subprocess_server import Child, ServerError, ServerProcess
from fastserve.compare.trace import check_fits, too_long, warm_up
from fastserve.metrics.finish import GAVE_UP
from fastserve.metrics.summary import Summary
from fastserve.policies.spec import PolicySpec, told_by
from fastserve.workload import Trace
from fastserve.workload.content import content
from fastserve.workload.prompts import Dialogue, TracePrompts
from fastserve.workload.requests import guesses_of
from fastserve.workload.session import Sessions, SessionSettings

TIMEOUT_S = 3600.0
"""s after which a request times out, which fails its run."""
LOOK_S = 0.25
MEASURED = "measured at load"
"""In a server's start line: no profile was stored or given."""


class HttpBody:
    """flags: of `fastserve serve`, for every contender that is a policy; each run has a fresh server of its own.
    about: the same settings, for the result; `max_batch` among them. start_s: how long a server may take to start.

    coming: how programs come, where the trace has any. own_answers: their prompts are the recorded text, else what the
    server has answered stands in them (workload.prompts.Dialogue).

    Our own servers get an output's length by stop_after, and max_tokens is one constant, so that the length is hidden.
    Other servers, by url, get max_tokens and ignore_eos, and are neither started nor stopped here.
    """

    def __init__(
        self, flags: Sequence[str], about: Mapping[str, Any], *, start_s: float = 600.0, predictor: str = "oracle",
        coming: SessionSettings | None = None, own_answers: bool = False,
    ) -> None:  # fmt: skip
        self.coming = coming or SessionSettings()
        self.own_answers = own_answers
        self.sent = 0  # runs so far
        self.predictor = predictor
        self.flags = list(flags)
        self.about = {"body": "http", **about, "predictor": predictor}
        self.start_s = start_s

    def check(self, contender: Contender) -> None:
        if isinstance(contender, PolicySpec):
            contender.check()

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        if isinstance(contender, Server):
            return self.replay_on(contender, contender.url, None, trace, seed, watch)
        try:
            with self.server(contender, len(trace)) as server:
                return self.replay_on(contender, server.url, server, trace, seed, watch)
        except ServerError as error:
            raise CompareError(str(error)) from None

    def server(self, contender: Contender, requests: int) -> Child:
        """A fresh server for a run of so many requests. Raises ServerError."""
        assert isinstance(contender, PolicySpec)
        return ServerProcess(self._flags(contender, requests), start_s=self.start_s)

    def probe(self, url: str) -> Target:
        """What the server tells of itself. Raises TargetError."""
        return TargetClient(url).probe()

    def api(self, url: str, target: Target, *, in_sessions: bool = False, token_ids: bool = False) -> HttpApi:
        return api_for(url, target, in_sessions=in_sessions, token_ids=token_ids)

    def preemptions(self, url: str) -> int | None:
        """How many the server has counted so far, where it does not tell of each job."""
        return None

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

    def replay_on(
        self, contender: Contender, url: str, server: Child | None, trace: Trace, seed: int, watch: Watch | None = None
    ) -> Replay:
        """A run on a server that is there; server: it, where it was started here. Raises CompareError, ServerError."""
        try:
            target = self.probe(url)
        except TargetError as error:
            raise CompareError(str(error)) from None
        in_sessions = self.coming.in_sessions(trace)
        context, model = target.max_model_len, next(iter(target.models), url)
        long: list[str] = []
        if context is not None and in_sessions:
            long = too_long(trace, context, model)
        elif context is not None:
            check_fits(trace, context, model)
        self._send(contender, url, target, warm_up(trace, context), seed + 1, None, server, "oracle")
        before = self.preemptions(url)
        if not in_sessions:
            result = self._send(contender, url, target, trace, seed, watch, server, self.predictor)
            return Replay(result.columns(), self._summary(result, url, before), notes(result, target, server))
        result, more = self._send_sessions(contender, url, target, trace, seed, watch, server)
        told = notes(result, target, server)
        told["warnings"] += long + more
        summary = self._summary(result, url, before)
        shared = content(trace, trace.block_size)
        summary["hit_rate_unlimited"] = None if shared is None else shared.hit_rate(trace)
        return Replay(result.columns(), summary, told | {"programs": result.programs()})

    def _summary(self, result: Result, url: str, before: int | None) -> Summary:
        """before: preemptions that the server had counted."""
        summary = result.summary()
        after = self.preemptions(url)
        if before is not None and after is not None and result.samples:
            summary["preemptions_per_job"] = (after - before) / len(result.samples)
        return summary

    def _send_sessions(
        self, contender: Contender, url: str, target: Target, trace: Trace, seed: int, watch: Watch | None,
        server: Child | None,
    ) -> tuple[Result, list[str]]:  # fmt: skip
        """With warnings. A request that was refused, cut or given up has abandoned its program; any other failure is
        the run's.
        """
        sessions = Sessions(trace, self.coming, seed)
        # A running server has seen the text of earlier runs: the same lengths and the same sharing, in other words.
        text = seed if server is not None else seed + 1_000_003 * self.sent
        self.sent += 1
        prompts = TracePrompts(trace, *ids_of(target.vocab_size), text)
        dialogue = Dialogue(trace, prompts, recorded=self.own_answers)
        predictor = predictors.make(self.predictor, seed, guesses_of(trace)) if contender.needs_guess else None
        plain = trace if contender.needs_guess else replace(trace, guess=None)
        calls = SessionCalls(trace, requests_for(plain, predictor, target.max_model_len), dialogue)
        api = self.api(url, target, in_sessions=True, token_ids=not self.own_answers)
        with undisturbed():
            result, _ = on_best_loop(_watched(calls, api, watch, sessions))
        expected = ("", UNFINISHED, CANCELLED)
        failed = [one.reply.error for one in result.samples if one.reply.finish in expected]
        if failed or not result.completed:
            if server is not None:
                server.check()
            why = failed[0] if failed else next((one.reply.error for one in result.samples), "nothing was sent")
            raise CompareError(f"{len(failed) or 'all'} of {len(result.samples)} requests failed: {why}")
        untold = "prompts have the recorded text where the server's answer belongs, for it did not tell token ids"
        return result, [untold] if dialogue.untold else []

    def _send(
        self, contender: Contender, url: str, target: Target, trace: Trace, seed: int, watch: Watch | None,
        server: Child | None, predictor: str,
    ) -> Result:  # fmt: skip
        calls = calls_for(trace, target, seed, guesses=contender.needs_guess, predictor=predictor)
        api = self.api(url, target)
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
    bounds = ids_of(target.vocab_size)
    alike = None if trace.hash_ids is None else AlikePrompts(TracePrompts(trace, *bounds, seed))
    prompts = IdPrompts(*bounds, seed) if alike is None else alike
    plain = trace if guesses else replace(trace, guess=None)
    return calls_of(plain, prompts, predictor=made, max_model_len=target.max_model_len)


def api_for(url: str, target: Target, *, in_sessions: bool = False, token_ids: bool = False) -> HttpApi:
    """Native streams of our own servers, which report preemptions; /v1/completions of others."""
    model = next(iter(target.models), None)
    options = RequestOptions(
        model=model, hide_lengths=target.own, ignore_eos=True, own=target.own, temperature=0.0, programs=in_sessions,
        token_ids=token_ids,
    )  # fmt: skip
    return HttpApi(url, Native(options) if target.own else Completions(options))


def notes(result: Result, target: Target, server: Child | None) -> dict[str, Any]:
    """Facts of a run. warnings: sentences, equal for equal problems."""
    lag = float(np.percentile(result.lags_ms(), 99))
    start_line = "" if server is None else server.start_line
    gone = (REJECTED, GAVE_UP)
    wrong = result.count(
        lambda sample: sample.reply.finish not in gone and sample.reply.tokens != sample.call.request.output
    )
    warnings = []
    if result.late:
        warnings.append(f"late: the client's p99 lag was above {LATE_NS / 1e6:g} ms, not the scheduled load; "
                    f"give it a core of its own or lower the rate")  # fmt: skip
    if wrong:
        warnings.append("outputs have other lengths than requested, so that the work is not the same")
    if not target.own and server is None:
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


async def _watched(
    calls: Sequence[Call] | SessionCalls, api: HttpApi, watch: Watch | None, sessions: Sessions | None = None
) -> Result:
    looks: list[asyncio.Task[None]] = []

    async def look(progress: Progress) -> None:
        while watch is not None:
            watch(progress.done)
            await asyncio.sleep(LOOK_S)

    def begin(progress: Progress) -> None:
        looks.append(asyncio.create_task(look(progress)))

    try:
        if isinstance(calls, SessionCalls):
            assert sessions is not None
            return await run_sessions(calls, api, sessions, timeout_s=TIMEOUT_S, watch=begin)
        return await run(calls, api, timeout_s=TIMEOUT_S, watch=begin)
    finally:
        for task in looks:
            task.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        api.close()
