"""The route log: everything that one router was told and what it chose, as JSON lines.

A gateway and a simulated cluster write the same (--route-log FILE), so the choices of a live day are made again by the
same router, or by another (`python -m fastserve.flightlog.replay LOG`). It holds lengths, ids and names, never a text.

The first line is the header: kind "routes", version, router (a name or module:Class), knobs, seed, unit_tokens and
replicas, [{name, weight}], by number. Each further line is one event, in the order in which the router saw them, with
its time `t` in ns:

    {"e": "route", "t", "job": {id, arrival, prompt, limit, guess, client, program, priority, ids}, "views": [], "to"}
    {"e": "sent" or "failed", "t", "job": id, "replica"}            {"e": "ended", "t", "job": id, "replica", "tokens"}
    {"e": "lost", "t", "replica"}                                   {"e": "came", "t", "replica", "name", "weight"}
    {"e": "end"}

`to` is the index into views, null where the router broke, with "error". Facts of a job and fields of a view (see
ReplicaView) that have their default are left out. "end" is the last line of a log that was closed; of one that could
not be written on it is {"e": "cut", "why"}.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from queue import Full, Queue
from typing import Any, Final, TextIO

from fastserve.flightlog.lines import CUT, Line, LogError, read
from fastserve.formats import VERSIONS, FormatError, check_version
from fastserve.routers.router import Replica, Router, RouterError, RouterFacts, chosen
from fastserve.routers.spec import RouterLike, RouterSpec
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import NEVER, Job

log = logging.getLogger("fastserve")

KIND: Final = "routes"

JOB_FACTS: Final[Mapping[str, Any]] = {
    "id": None, "arrival": None, "prompt": None, "limit": NEVER, "guess": None, "client": "", "program": "",
    "priority": 0, "ids": (),
}  # fmt: skip
"""What of a Job a router may read -> its default; None: it is always written, but for the guess."""

VIEW_FIELDS: Final = {field.name: field.default for field in fields(ReplicaView)}

MOST: Final = 10_000
"""Events that wait for the disk."""


class RouteLog:
    """Writes one. A thread of its own encodes and writes, so that a slow disk does not hold up the sender."""

    def __init__(
        self, path: str | PathLike[str], router: RouterLike, facts: RouterFacts | None = None, *, wait: bool = False
    ) -> None:
        """router: as it is made again. facts: if they are known before the router begins. wait: where the disk is
        behind, the sender waits for it, as a simulator should; else the log ends there and says so, since with a hole
        it could not be replayed. Raises OSError where the file cannot be written.
        """
        self.spec = RouterSpec.of(router)
        self.path = Path(path)
        self._file: TextIO = self.path.open("w", encoding="utf-8")
        self._events: Queue[dict[str, Any] | None] = Queue(MOST)
        self._wait = wait
        self._over = ""  # why nothing more is written; empty: it is
        self._thread = threading.Thread(target=self._write_all, name="route-log", daemon=True)
        self._thread.start()
        self._begun = False
        if facts is not None:
            self.begin(facts)

    def begin(self, facts: RouterFacts) -> None:
        """The header, once; first of all."""
        if self._begun:
            return
        self._begun = True
        self.tell({
            "kind": KIND, "version": VERSIONS["route_log"], "router": self.spec.path, "knobs": dict(self.spec.knobs),
            "seed": facts.seed, "unit_tokens": facts.unit_tokens,
            "replicas": [replica._asdict() for replica in facts.replicas],
        })  # fmt: skip

    def around(self, router: Router) -> Router:
        """The router, whose every call is written. It has not begun."""
        return _Logged(router, self)

    def tell(self, event: dict[str, Any]) -> None:
        """One event; its values are not changed any more."""
        if self._over:
            return
        try:
            self._events.put(event, block=self._wait)
        except Full:
            self._end(f"{MOST:,} events waited for the disk")

    def close(self) -> None:
        """Writes what is left. May be called twice."""
        if not self._over:
            self.tell({"e": "end"})
        self._over = self._over or "it was closed"
        if self._thread.is_alive():
            self._events.put(None)
            self._thread.join()
        if not self._file.closed:
            self._file.close()

    def _end(self, why: str) -> None:
        self._over = why
        log.error("the route log %s ends here, routing goes on: %s", self.path, why)

    def _write_all(self) -> None:
        event: dict[str, Any] | None = {}
        while event is not None:
            try:
                self._file.flush()
                event = self._events.get()
                while event is not None:
                    self._file.write(_line(event))
                    if self._events.empty():
                        break
                    event = self._events.get()
            except OSError as error:  # a full disk must not end the service
                self._end(str(error))
                self._drain()
                return
        if self._over != "it was closed":
            self._file.write(_line({"e": "cut", "why": self._over}))

    def _drain(self) -> None:
        while self._events.get() is not None:
            pass


class _Logged(Router):
    """Passes every call on, and writes it."""

    def __init__(self, inner: Router, routes: RouteLog) -> None:
        self.inner = inner
        self.needs = inner.needs  # type: ignore[misc]
        self._begin = routes.begin
        self._tell = routes.tell
        self._now = 0

    def begin(self, facts: RouterFacts) -> None:
        super().begin(facts)
        self._begin(facts)
        self.inner.begin(facts)

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        self._now = max(self._now, job.arrival)
        event = {"e": "route", "t": self._now, "job": job_data(job), "views": [view_data(view) for view in views]}
        try:
            index = chosen(self.inner, job, views)
        except RouterError as error:
            self._tell({**event, "to": None, "error": str(error)})
            raise
        self._tell({**event, "to": index})
        return index

    def sent(self, job: Job, replica: int, now: int) -> None:
        self._event("sent", now, job=job.id, replica=replica)
        self.inner.sent(job, replica, now)

    def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
        self._event("ended", now, job=job.id, replica=replica, tokens=tokens)
        self.inner.ended(job, replica, now, tokens)

    def failed(self, job: Job, replica: int, now: int) -> None:
        self._event("failed", now, job=job.id, replica=replica)
        self.inner.failed(job, replica, now)

    def lost(self, replica: int, now: int) -> None:
        self._event("lost", now, replica=replica)
        self.inner.lost(replica, now)

    def came(self, replica: int, name: str, weight: float, now: int) -> None:
        self._event("came", now, replica=replica, name=name, weight=weight)
        self.inner.came(replica, name, weight, now)

    def explain(self, job: Job) -> str:
        return self.inner.explain(job)

    def _event(self, what: str, now: int, **data: Any) -> None:
        self._now = max(self._now, now)
        self._tell({"e": what, "t": now, **data})


def job_data(job: Job) -> dict[str, Any]:
    """What a router may read of it, as plain data."""
    facts = ((name, getattr(job, name), default) for name, default in JOB_FACTS.items())
    data = {name: value for name, value, default in facts if value is not None and value != default}
    if "ids" in data:
        data["ids"] = list(job.ids)
        if not data["ids"]:
            del data["ids"]
    return data


def view_data(view: ReplicaView) -> dict[str, Any]:
    """Its fields as plain data, without defaults."""
    return {name: value for name, default in VIEW_FIELDS.items() if (value := getattr(view, name)) != default}


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), default=repr) + "\n"


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """choices: that the log has. differing: how many of them this router makes otherwise; first: the first of these."""

    router: str
    choices: int
    differing: int
    first: str = ""
    end: str = ""  # what is missing at the end of the log, if anything
    broke: str = ""  # the first call that was no choice and in which the router broke; it went on, as in the gateway

    def __str__(self) -> str:
        tail = "".join([f"; {text}" for text in (self.end, self.broke) if text])
        if not self.differing:
            return f"reproduced: {self.choices} choices of {self.router}{tail}"
        return f"{self.differing} of {self.choices} choices of {self.router} differ; the first: {self.first}{tail}"


def is_route_log(path: str | PathLike[str]) -> bool:
    """By its first line. Raises OSError."""
    try:
        first = next(read(Path(path)), None)
    except LogError:
        return False
    return first is not None and first.data.get("kind") == KIND


def replay_routes(path: str | PathLike[str], router: RouterLike | None = None) -> Replayed:
    """Asks a fresh router for every choice, and tells it what happened as the log says, whatever it chose.

    router: instead of the log's own. Raises LogError for another file or a damaged one, ValueError for an unknown
    router.
    """
    lines = read(Path(path))
    header, facts = _header(next(lines, None), path)
    try:
        own = RouterSpec(header["router"], header["knobs"])
        spec = own if router is None else RouterSpec.of(router)
        rerun = _Rerun(spec.fresh(), facts)
    except (KeyError, TypeError, AttributeError) as error:
        raise LogError(f"{path}, line 1: the header lacks or mistakes {error}") from None
    end = "the log does not say that it ended: its writer is still running, was killed, or lines at the end are missing"
    for line in lines:
        if line.data is CUT:
            end = "the last line is incomplete and was left out"
            break
        event = line.data.get("e")
        if event in ("end", "cut"):
            end = "" if event == "end" else f"it could not be written on: {line.data.get('why')}"
            break
        try:
            rerun.apply(line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LogError(f"{path}, line {line.number}: {type(error).__name__} {error}; is it damaged?") from None
    return Replayed(spec.name, rerun.choices, rerun.differing, rerun.first, end, rerun.broke)


def _header(line: Line | None, path: object) -> tuple[dict[str, Any], RouterFacts]:
    if line is None or line.data.get("kind") != KIND:
        raise LogError(f'{path} is no route log: its first line does not say {{"kind": "{KIND}", ...}}')
    try:
        check_version("route_log", line.data.get("version"), path)
        replicas = tuple(Replica(one["name"], one["weight"]) for one in line.data["replicas"])
        return line.data, RouterFacts(replicas, line.data["unit_tokens"], line.data["seed"])
    except FormatError as error:
        raise LogError(str(error)) from None
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}, line 1: the header lacks or mistakes {error}") from None


class _Rerun:
    """A fresh router, which is told what the lines say."""

    def __init__(self, router: Router, facts: RouterFacts) -> None:
        self.router = router
        self.jobs: dict[int, Job] = {}  # that have not ended; a job that is routed again is the same object
        self.choices = 0
        self.differing = 0
        self.first = ""
        self.broke = ""
        router.begin(facts)

    def apply(self, line: Line) -> None:
        """Raises KeyError and its like for a damaged line."""
        data = line.data
        event = data["e"]
        if event == "route":
            self._compare(line)
            return
        if event not in ("sent", "ended", "failed", "lost", "came"):
            raise ValueError(f"there is no event {event!r}")
        arguments: list[Any] = [data["replica"]]
        job = None
        if event in ("sent", "ended", "failed"):
            job = self.jobs.pop(data["job"]) if event == "ended" else self.jobs[data["job"]]
            arguments = [job, data["replica"]]
        elif event == "came":
            arguments += [data["name"], data["weight"]]
        arguments.append(data["t"])
        if event == "ended":
            arguments.append(data["tokens"])
        try:
            getattr(self.router, event)(*arguments)
        except Exception as error:  # as in the gateway, which goes on
            self.broke = self.broke or str(RouterError(self.router, event, job, error))

    def _compare(self, line: Line) -> None:
        data = line.data
        id, theirs = data["job"]["id"], data["to"]
        if id not in self.jobs:
            self.jobs[id] = Job(**{name: value for name, value in data["job"].items() if name in JOB_FACTS})
        views = [ReplicaView(**{name: value for name, value in view.items() if name in VIEW_FIELDS})
                 for view in data["views"]]  # fmt: skip
        if not views or not (theirs is None or 0 <= theirs < len(views)):
            raise ValueError(f"{theirs!r} is no index of {len(views)} views")
        self.choices += 1
        try:
            ours: int | None = chosen(self.router, self.jobs[id], views)
            broke = ""
        except RouterError as error:
            ours, broke = None, str(error)
        if ours == theirs:
            return
        self.differing += 1
        if not self.first:
            here = broke or f"{_named(views, ours)}{_because(self.router, self.jobs[id])}"
            there = "the router broke" if theirs is None else _named(views, theirs)
            self.first = f"line {line.number}, job {id} at {data['t'] / 1e9:.6f} s: {here}, in the log {there}"


def _named(views: Sequence[ReplicaView], index: int | None) -> str:
    return "nowhere" if index is None else f"{views[index].name} ({views[index].replica})"


def _because(router: Router, job: Job) -> str:
    try:
        why = router.explain(job)
    except Exception:  # the choice is what is compared
        why = ""
    return f" ({why})" if why else ""
