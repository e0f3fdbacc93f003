"""A profile from a flight log: what an engine, or vLLM under our Scheduler, has run is measured already.

A log has each iteration's plan, or what the body made of it (amend), and the time that it took (commit). Where the
chunks of a prefill begin is followed job by job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from fastserve.flightlog.replay import Line, LogError, opened
from fastserve.hardware import Hardware, hardware_from_json
from fastserve.profiler.calibrate import Calibration
from fastserve.profiler.fit import Iteration, cells_of, fit_latency, residuals


def iterations_of(path: str | PathLike[str]) -> list[Iteration]:
    """All iterations of a log that took time, in order. Raises LogError, OSError."""
    return list(_iterations(opened(path)[1], path))


def profile_of(path: str | PathLike[str]) -> Calibration:
    """Fits a latency model to a log's iterations; memory, link and context are the log's own.

    Raises LogError, OSError; ValueError where it has no decodes or no prefills.
    """
    header, lines = opened(path)
    name = Path(path).name
    try:
        was = hardware_from_json(header["hardware"])
        settings = dict(header["settings"])
        policy = str(header["policy"])
    except KeyError as error:
        raise LogError(f"{path}, line 1: the header lacks {error}") from None
    iterations = list(_iterations(lines, path))
    cells = cells_of(iterations)
    try:
        latency = fit_latency(cells, f"{was.name}, from {name}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = residuals(cells, latency)
    seconds = iterations[-1].at + iterations[-1].ms / 1e3 - iterations[0].at
    missed = ", ".join(f"{kind} {one.median:.1%} (bias {one.bias:+.1%})" for kind, one in found.items())
    latency.provenance = (
        f"fastserve profile --from-log {name}: {len(iterations)} whole iterations under {policy} in {seconds:.0f} s; "
        f"median miss: {missed}"
    )
    hardware = replace(was, latency=latency, about=f"{was.name}, measured from {name}")
    about = {"model": header.get("model", was.name), "backend": header.get("backend"), **settings}
    return Calibration(hardware, found, cells, [], {}, about, seconds)


def facts_of(path: str | PathLike[str], hardware: Hardware) -> dict[str, Any]:
    """What the times of a log depend on, as far as its header says: the key under which its profile is stored."""
    header, _ = opened(path)
    own = {name: header.get(name) for name in ("backend", "model", "settings")}
    return {"from": "flight log", "memory": hardware.memory.to_json(), **own}


def _iterations(lines: Iterator[Line], path: str | PathLike[str]) -> Iterator[Iteration]:
    cached: dict[int, int] = {}  # tokens of each job's prefill that have been computed, or found
    plan: Mapping[str, Any] | None = None
    planned = 0
    for line in lines:
        data = line.data
        try:
            event = data["event"]
            if event == "plan":
                plan, planned = data["plan"], data["now"]
            elif event == "amend":
                plan = data["plan"]
            elif event == "forget_all":
                cached.clear()
                plan = None
            elif event == "commit":
                if plan is None:
                    raise LogError(f"{path}, line {line.number}: a commit without a plan; is it damaged?")
                rounds, service = data["iterations"], data["service"]
                one = _shape(plan, cached, rounds)
                if service > 0 and (one.batch or one.tokens):
                    yield from [one._replace(ms=service / rounds / 1e6, at=planned / 1e9)] * rounds
                plan = None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, LogError):
                raise
            raise LogError(f"{path}, line {line.number}: {type(error).__name__} {error}; is it damaged?") from None


def _shape(plan: Mapping[str, Any], cached: dict[int, int], rounds: int) -> Iteration:
    """The mean iteration of a plan that was repeated so often; its prefills are done then, and cached says so."""
    for job in plan["drop"]:
        cached.pop(job, None)
    for job, tokens in plan.get("found", ()):
        cached[job] = cached.get(job, 0) + tokens
    total = squared = 0
    for job, tokens in plan["prefill"]:
        start = cached.get(job, 0)
        end = cached[job] = start + rounds * tokens
        total += tokens
        squared += (end * end - start * start) // rounds
    batch = plan["batch"]
    return Iteration(batch, plan["context"] + batch * (rounds - 1) // 2, total, squared, 0.0)
