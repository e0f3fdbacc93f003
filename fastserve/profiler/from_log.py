"""A profile from a flight log: what an engine, or vLLM under our Scheduler, has run is measured already.

A log has each iteration's plan, or what the body made of it (amend), and the time that it took (commit). Where the
chunks of a prefill begin is followed job by job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fastserve.flightlog.lines import Line, LogError
from fastserve.flightlog.replay import opened
from fastserve.hardware import Hardware, Memory, hardware_from_json
from fastserve.profiler.calibrate import Calibration
from fastserve.profiler.fit import Iteration, cells_of, fit_latency, residuals
from fastserve.profiler.verify import with_verify

WARMING_UP = 10
"""Iterations at the beginning of a long log that are left out: the first steps of a process are its slowest."""


def iterations_of(path: str | PathLike[str]) -> list[Iteration]:
    """All iterations of a log that took time, in order. Raises LogError, OSError."""
    header, lines = opened(path)
    return list(_iterations(lines, path, header))


def profile_of(path: str | PathLike[str]) -> Calibration:
    """Fits a latency model to a log's iterations; pools, link and context are those of its Scheduler.

    Raises LogError, OSError; ValueError where it has no decodes or no prefills.
    """
    header, lines = opened(path)
    name = Path(path).name
    try:
        was = hardware_from_json(header["hardware"])
        settings = dict(header["settings"])
        policy = str(header["policy"])
        memory = _memory(was.memory, settings)
    except KeyError as error:
        raise LogError(f"{path}, line 1: the header lacks {error}") from None
    body = f"vllm {header['vllm']}" if "vllm" in header else was.name
    iterations = list(_iterations(lines, path, header))
    if len(iterations) >= 10 * WARMING_UP:
        iterations = iterations[WARMING_UP:]
    cells = cells_of(iterations)
    try:
        latency = with_verify(fit_latency(cells, f"{body}, from {name}"), cells)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = residuals(cells, latency)
    seconds = iterations[-1].at + iterations[-1].ms / 1e3 - iterations[0].at
    missed = ", ".join(f"{kind} {one.median:.1%} (bias {one.bias:+.1%})" for kind, one in found.items())
    latency.provenance = (
        f"fastserve profile --from-log {name}: {len(iterations)} whole iterations of {body} under {policy} in "
        f"{seconds:.0f} s; median miss: {missed}"
    )
    about = f"{body}, measured from {name}"
    hardware = Hardware(latency, memory, was.link, about, header.get("context") or was.context)
    known = {"model": body, "backend": header.get("backend"), **settings}
    return Calibration(hardware, found, cells, [], {}, known, seconds)


def _memory(told: Memory, settings: Mapping[str, Any]) -> Memory:
    """The pools that the Scheduler was built with: vLLM's are not those of the profile that it was given."""
    blocks, block = settings["device_blocks"], settings["block_tokens"] or told.block_tokens
    if (blocks, block) == (told.device_blocks, told.block_tokens):
        return told
    return Memory(block, None if blocks is None else blocks * block, 0)


def facts_of(path: str | PathLike[str]) -> dict[str, Any]:
    """The key under which its profile is stored: a log's own, for its header does not name the model."""
    return {"flight log": str(Path(path).resolve())}


def _iterations(lines: Iterator[Line], path: str | PathLike[str], header: Mapping[str, Any]) -> Iterator[Iteration]:
    cached: dict[int, int] = {}  # tokens of each job's prefill that have been computed, or found
    plan: dict[str, Any] | None = None
    planned = 0
    before: Iteration | None = None  # of a body that plans ahead: the step that the next commit tells the time of
    for line in lines:
        data = line.data
        try:
            event = data["event"]
            if event == "plan":
                plan, planned = data["plan"], data["now"]
            elif event == "amend":
                plan = data["plan"]
                plan["found"] = [*{**dict(plan.get("found", ())), **dict(data["found"])}.items()]
            elif event == "forget_all":
                cached.clear()
                plan = before = None
            elif event == "commit":
                if plan is None:
                    raise LogError(f"{path}, line {line.number}: a commit without a plan; is it damaged?")
                rounds, service = data["iterations"], data["service"]
                guesses = sum([drafted for _, drafted, _ in data.get("drafts", ())])
                one: Iteration | None = _shape(plan, cached, rounds)._replace(at=planned / 1e9, drafts=guesses)
                if header.get("ahead"):
                    one, before = before, one
                if service > 0 and one is not None and (one.batch or one.tokens):
                    yield from [one._replace(ms=service / rounds / 1e6)] * rounds
                plan = None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
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
