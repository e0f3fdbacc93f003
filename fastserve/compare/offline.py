"""EngineBody: comparison in this process, on one loaded model, without HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastserve import predictors
from fastserve.compare.compare import CompareError, Replay, Watch
from fastserve.compare.contender import Contender
from fastserve.compare.trace import check_fits, too_long, warm_up
from fastserve.engine.config import EngineConfig
from fastserve.engine.playback import PlaybackError, play, play_sessions
from fastserve.hardware import Hardware
from fastserve.launch import Body
from fastserve.metrics.summary import summarise
from fastserve.policies.spec import PolicyLike, PolicySpec, told_by
from fastserve.profiler.load import machine
from fastserve.sched.observer import Observer
from fastserve.workload import Trace
from fastserve.workload.content import content, unit_of
from fastserve.workload.requests import guesses_of
from fastserve.workload.session_settings import SessionSettings


class EngineBody:
    """serving: settings that all contenders share, None for a default. The latency model of all policies is
    the body's `latency`, else a stored profile, or measured once. Raises ValueError for invalid settings.

    coming: how programs come, where the trace has any; recorded: their prompts are the recorded text, see
    play_sessions(). look: for each run except those that warm up: the observers to attach to its engine. predictor: of
    the guesses that requests bring to policies that need them, as predictors.make() takes it.
    """

    def __init__(
        self,
        body: Body,
        serving: Mapping[str, Any],
        look: Callable[[Contender], list[Observer]] | None = None,
        predictor: str = "oracle",
        *,
        coming: SessionSettings | None = None,
        recorded: bool = False,
    ) -> None:
        self.coming = coming or SessionSettings()
        self.recorded = recorded
        self.body = body
        self.predictor = predictor
        self.look = look
        self.shared = {name: value for name, value in serving.items() if value is not None} | {"keep_records": None}
        with body.engine(serving_of("fcfs", self.shared)) as engine:
            self.hardware: Hardware = engine.hardware
            self.context = engine.max_model_len
            self.modelled = engine.loop.backend.traits.modelled
            self.about = {"body": "engine", "backend": body.name, "model": engine.model_name,
                          "latency": engine.hardware.name, **serving,
                          "max_batch": engine.serving.max_batch, "residency": engine.serving.residency,
                          "predictor": predictor}  # fmt: skip
        self.warm = False

    def check(self, contender: Contender) -> None:
        serving_of(_policy(contender), self.shared)

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        chosen = serving_of(_policy(contender), self.shared)
        if not self.warm:  # once, as all runs share a process
            self._play(serving_of("fcfs", self.shared), warm_up(trace, self.context), seed, None)
            self.warm = True
        looking = [] if self.look is None else self.look(contender)
        if self.coming.in_sessions(trace):
            return self._play_sessions(chosen, trace, seed, watch, looking)
        records, knobs = self._play(chosen, trace, seed, watch, looking)
        return Replay(records, summarise(records, horizon_s=float(records["end"].max())), {"policy": knobs})

    def machine(self) -> dict[str, Any]:
        return machine()

    def _play(
        self, serving: EngineConfig, trace: Trace, seed: int, watch: Watch | None, looking: Sequence[Observer] = ()
    ) -> tuple[Any, dict[str, Any]]:
        """Records, and all settings of the policy."""
        with self.body.engine(self._in_units_of(trace, serving), self.hardware) as engine:
            for observer in looking:
                engine.attach(observer)
            context = engine.max_model_len
            check_fits(trace, context, engine.model_name)
            guesses = serving.predictor == "client"
            predictor = predictors.make(self.predictor, seed, guesses_of(trace)) if guesses else None
            try:
                records = play(engine, trace, seed=seed, predictor=predictor, max_model_len=context, watch=watch)
            except PlaybackError as error:
                raise CompareError(str(error)) from None
            return records, told_by(engine.settings)

    def _play_sessions(
        self, serving: EngineConfig, trace: Trace, seed: int, watch: Watch | None, looking: Sequence[Observer]
    ) -> Replay:
        with self.body.engine(self._in_units_of(trace, serving), self.hardware) as engine:
            for observer in looking:
                engine.attach(observer)
            guesses = serving.predictor == "client"
            predictor = predictors.make(self.predictor, seed, guesses_of(trace)) if guesses else None
            try:
                played = play_sessions(
                    engine, trace, self.coming, seed=seed, predictor=predictor, recorded=self.recorded, watch=watch
                )
            except PlaybackError as error:
                raise CompareError(str(error)) from None
            knobs = told_by(engine.settings)
            warnings = too_long(trace, engine.max_model_len, engine.model_name)
        summary, table = played.measured()
        shared = content(trace, trace.block_size)
        summary["hit_rate_unlimited"] = None if shared is None else shared.hit_rate(trace)
        return Replay(played.records, summary, {"policy": knobs, "warnings": warnings, "programs": table})

    def _in_units_of(self, trace: Trace, serving: EngineConfig) -> EngineConfig:
        """A modelled body shares what the simulator does: whole blocks of the trace."""
        if (
            not self.modelled
            or trace.hash_ids is None
            or serving.prefix_cache == "off"
            or serving.prefix_tokens is not None
        ):
            return serving
        return replace(serving, prefix_tokens=unit_of(trace, serving.block))


def serving_of(policy: PolicyLike, shared: Mapping[str, Any]) -> EngineConfig:
    """Settings for a replay; guesses, if the policy needs them, come with the requests."""
    spec = PolicySpec.of(policy)
    return EngineConfig.of({**shared, "policy": spec, "predictor": "client" if spec.needs_guess else None})


def _policy(contender: Contender) -> PolicySpec:
    if not isinstance(contender, PolicySpec):
        raise ValueError(f"{contender.name} is a server, which --offline cannot use")
    return contender
