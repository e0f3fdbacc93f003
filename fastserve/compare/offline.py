"""A comparison's body in this process: policies on one loaded model, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastserve.compare.compare import CompareError, Contender, Replay, Watch
from fastserve.compare.trace import check_fits, warm_up
from fastserve.engine.config import EngineConfig
from fastserve.engine.playback import PlaybackError, play
from fastserve.hardware import Hardware
from fastserve.launch import Body
from fastserve.metrics.summary import summarise
from fastserve.profiler.load import machine
from fastserve.workload import Trace


class EngineBody:
    """serving: settings that all contenders share, None for a default. What all policies are told of the machine is the
    body's `latency`, else what is stored for its model, or measured once. ValueError for what cannot work.
    """

    def __init__(self, body: Body, serving: Mapping[str, Any]) -> None:
        self.body = body
        self.shared = {name: value for name, value in serving.items() if value is not None} | {"keep_records": None}
        with body.engine(serving_of("fcfs", {}, self.shared)) as engine:
            self.hardware: Hardware = engine.hardware
            self.about = {"body": "engine", "backend": body.name, "model": engine.model_name,
                          "latency": engine.hardware.name, **serving,
                          "max_batch": engine.serving.max_batch}  # fmt: skip
        self.warm = False

    def check(self, contender: Contender) -> None:
        if contender.url:
            raise ValueError(f"{contender.url} is a server, and there is no HTTP with --offline")
        serving_of(contender.policy, contender.knobs, self.shared).fresh_policy()

    def replay(self, contender: Contender, trace: Trace, seed: int, watch: Watch | None) -> Replay:
        chosen = serving_of(contender.policy, contender.knobs, self.shared)
        if not self.warm:  # one process serves all runs
            self._play(serving_of("fcfs", {}, self.shared), warm_up(trace), seed, None)
            self.warm = True
        records = self._play(chosen, trace, seed, watch)
        return Replay(records, summarise(records, horizon_s=float(records["end"].max())), {})

    def machine(self) -> dict[str, Any]:
        return machine()

    def _play(self, serving: EngineConfig, trace: Trace, seed: int, watch: Watch | None) -> Any:
        with self.body.engine(serving, self.hardware) as engine:
            context = engine.max_model_len
            check_fits(trace, context, engine.model_name)
            try:
                return play(engine, trace, seed=seed, max_model_len=context, watch=watch)
            except PlaybackError as error:
                raise CompareError(str(error)) from None


def serving_of(policy: Any, knobs: Mapping[str, Any], shared: Mapping[str, Any]) -> EngineConfig:
    """For a replay: guesses, where the policy needs them, come with the requests."""
    serving = EngineConfig.of(dict(shared) | {"policy": policy, "knobs": dict(knobs), "predictor": "client"})
    return serving if "guess" in getattr(serving.kind, "needs", ()) else replace(serving, predictor=None)
