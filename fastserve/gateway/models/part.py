"""Models: the gateway's part that loads what is asked for. Its methods are what routes, Ollama's too, are made of."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from fastapi import APIRouter
from starlette.responses import Response

from fastserve.gateway.call import Call, Next
from fastserve.gateway.core import Core
from fastserve.gateway.models.entry import Entry, check_name, hub_id
from fastserve.gateway.models.events import Event, Events
from fastserve.gateway.models.hub import Search
from fastserve.gateway.models.jobs import Job, Jobs
from fastserve.gateway.models.pull import PullError, Pulls
from fastserve.gateway.models.registry import Found, Registry, UnknownModelError
from fastserve.gateway.models.remove import remove
from fastserve.gateway.models.rows import on_disk, row
from fastserve.gateway.models.served_model import ServedModel, State
from fastserve.gateway.models.server_process import ServerProcess
from fastserve.gateway.models.supervisor import RETRY_S, AllBusyError, LoadFailedError, Supervisor
from fastserve.gateway.models.traffic import OWNER, UpstreamTraffic
from fastserve.server.api.errors import ApiError

log = logging.getLogger("fastserve.gateway")

AGAIN: Final = 2
"""How often a request whose model's server died before a byte came waits for the next one."""
LOST: Final = {404: 0.0, 502: 2.0, 503: 0.0}
"""Status of an answer that may mean that a server has died -> s in which that shows."""
POLL_S: Final = 0.1

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = list[dict[str, Any]]


class BusyError(RuntimeError):
    """The model has requests; the message says how to end them."""


class Models:
    """A Part; see call.Part. All methods that take a model raise UnknownModelError."""

    name: str = OWNER
    router: APIRouter | None

    def __init__(self, gateway: Core, router: APIRouter) -> None:
        config = gateway.config
        self.gateway, self.router = gateway, router
        self.folder = None if config.models_dir is None else Path(config.models_dir)
        self.events = Events()
        self.registry = Registry(config.models, self.folder, dict(config.model_options), self._changed)
        self.traffic = UpstreamTraffic(gateway, self.registry.added_adapters)
        self.supervisor = Supervisor(
            lambda name: self.registry.find(name).entry, self.traffic, self.events,
            most=config.models_max, idle_s=config.idle_seconds, start_s=config.load_timeout,
        )  # fmt: skip
        self.pulls = Pulls(self.folder, lambda name, data: self.events.publish(name, "progress", **data))
        self.jobs = Jobs(self._work)
        self.search = Search()
        self._watching: asyncio.Task[None] | None = None
        self.offer()

    # -- what a Part has ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.supervisor.start()
        self._watching = asyncio.create_task(self.registry.watch())

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self.events.close()
        await self.jobs.close()
        await self.pulls.close()
        await self.supervisor.close()
        self.search.close()

    def status(self) -> dict[str, Any]:
        rows = [self._row(name) for name in self.registry.entries]
        return {
            "models": rows,
            "loaded": [each["model_id"] for each in rows if each["loaded"]],
            "memory": sum(each["memory"] or 0 for each in rows),
            "models_max": self.supervisor.most,
            "idle_seconds": self.supervisor.idle_s,
            "loads": self.supervisor.loads,
            "downloads": [
                {"model_id": each.name, "completed": each.done, "total": each.total}
                for each in self.pulls.running.values()
            ],
            "jobs": {state: sum(job.state == state for job in self.jobs.by_id.values()) for state in ("queued",
                     "downloading", "starting", "finished", "failed", "cancelled")},
            "file": self.registry.fault or "ok",
        }  # fmt: skip

    async def stage(self, call: Call, following: Next) -> Response:
        """Loads the model of a call, and keeps it while the call is on its way. A model that others serve is theirs."""
        found = self._asked(call)
        if found is None:
            return await following(call)
        for left in reversed(range(AGAIN + 1)):
            try:
                async with self.supervisor.held(found.entry.name) as served:
                    process = served.process
                    try:
                        response = await following(call)
                    except ApiError as error:
                        if error.status not in LOST or not left or not await _gone(served, process, LOST[error.status]):
                            raise
                    else:
                        status = response.status_code
                        if status not in LOST or not left or not await _gone(served, process, LOST[status]):
                            return response
                    log.info("request %s waits for the next server of %s", call.request_id, found.entry.name)
                    self.gateway.running.add(call)
            except AllBusyError as error:
                raise ApiError(503, str(error), retry_after=RETRY_S) from error
            except LoadFailedError as error:
                raise ApiError(500, str(error), param="model") from error
            except UnknownModelError as error:  # it was taken out meanwhile
                raise ApiError(404, str(error), param="model") from error
        raise AssertionError("the last round returns or raises")

    # -- what routes are made of --------------------------------------------------------------------------------------

    def known(self, name: str) -> bool:
        """Whether a request may name it."""
        return name in self.registry.entries or name in self.registry.adapters

    def check(self, name: str) -> None:
        """Raises ValueError for what neither is a model nor can be one of the hub: a job to load it could only fail."""
        if not self.known(name):
            if "/" in name:
                hub_id(name)
            else:
                self.registry.find(check_name(name, "model"))

    async def list(self) -> Rows:
        """All models, with size, modified_at and format where they are on this machine."""
        entries = dict(self.registry.entries)
        sizes = await asyncio.to_thread(lambda: {name: on_disk(entry) for name, entry in entries.items()})
        return [self._row(name) | sizes[name] for name in entries if name in self.registry.entries]

    async def status_of(self, name: str) -> Row:
        """One of them. Of an adapter: its base's, with its own name as `adapter`."""
        found = self.registry.find(name)
        return self._row(found.entry.name) | ({"adapter": found.adapter} if found.adapter else {})

    async def load(self, name: str, *, again: bool = True) -> Row:
        """Back when it is in memory. Raises AllBusyError or LoadFailedError."""
        found = self.registry.find(name)
        await self.supervisor.ready(found.entry.name, again=again)
        return self._row(found.entry.name)

    async def unload(self, name: str, *, force: bool = False) -> bool:
        """Whether it was loaded. Raises BusyError where it has requests, unless they are to end with an error."""
        found = self.registry.find(name)
        if not force and (count := await self.supervisor.requests(found.entry.name)):
            raise BusyError(f"model {name} has {count} requests: wait, or give force to end them")
        return await self.supervisor.unload(found.entry.name)

    def keep(self, name: str, seconds: float | None) -> None:
        """Until it is unloaded: below 0 for ever, 0 until it is idle, None as --idle-seconds says."""
        self.supervisor.keep(self.registry.find(name).entry, seconds)

    async def pull(self, name: str) -> AsyncIterator[Row]:
        """{"completed", "total"} in bytes as a download goes on, at last {"model_id"}. Who leaves it cancels it, unless
        others follow the same. Raises PullError, or ValueError for what is no name of the hub.
        """
        self._may_pull()
        pull = self.pulls.begin(name)
        following = asyncio.ensure_future(self.pulls.follow(pull))
        try:
            told = None
            while not following.done():
                await asyncio.wait([following], timeout=POLL_S)
                if pull.total is not None and (pull.done, pull.total) != told:
                    told = pull.done, pull.total
                    yield {"completed": pull.done, "total": pull.total}
            self._pulled(await following)
            yield {"model_id": name}
        finally:
            following.cancel()

    async def delete(self, name: str) -> None:
        """A model that was downloaded, from the disk. Raises BusyError, or ValueError for any other."""
        found = self.registry.find(name)
        if found.adapter or not self._row(found.entry.name)["downloaded"]:
            raise ValueError(f"{name} was not downloaded here, so it is not deleted: remove its files yourself")
        await self.unload(name)
        await asyncio.to_thread(remove, found.entry, self.folder)
        self.registry.drop_pulled(name)
        self.registry.look()

    async def watch(self, name: str) -> AsyncIterator[Event]:
        """What happens to a model, its row first. A name of the hub will do, for a download that runs."""
        if name not in self.pulls.running and not any(job.model == name for job in self.jobs.by_id.values()):
            name = self.registry.find(name).entry.name
        return self.events.watch(name, lambda: Event("state", self._known_row(name)))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _asked(self, call: Call) -> Found | None:
        """Which of ours a call is for; None where it is somebody else's, or nobody's."""
        others = [each for each in self.gateway.upstreams if each.owner != OWNER]
        if not call.model:
            if others or not (name := self._usual()):
                return None
            if call.fields is not None:
                call.rewrite(model=name)
            return self.registry.find(name)
        try:
            found = self.registry.find(call.model)
        except UnknownModelError:
            return None
        return None if any(call.model in each.models and each.state == "healthy" for each in others) else found

    def _usual(self) -> str:
        """The model of a call that names none: the one used last, else the only one there is."""
        ready = [each for each in self.supervisor.models.values() if each.state is State.READY]
        if ready:
            return max(ready, key=lambda each: each.last_used).entry.name
        return next(iter(self.registry.entries)) if len(self.registry.entries) == 1 else ""

    def _row(self, name: str) -> Row:
        return row(self.registry.entries[name], self.supervisor.models.get(name))

    def _known_row(self, name: str) -> Row:
        pull = self.pulls.running.get(name)
        more = {"state": "downloading", "completed": pull.done, "total": pull.total} if pull is not None else {}
        return (self._row(name) if name in self.registry.entries else {"model_id": name, "state": "unknown"}) | more

    def _changed(self, names: set[str]) -> None:
        if hasattr(self, "supervisor"):  # not before all is made
            self.supervisor.changed(names)
            self.offer()
            for name in names:
                there = name in self.registry.entries
                log.info("model %s %s", name, "is there, or is another one" if there else "is gone")
                self.events.publish(name, "registry", known=there)

    def offer(self) -> None:
        self.gateway.upstreams.offered = tuple(self.registry.names)

    def _pulled(self, entry: Entry) -> None:
        if entry.origin == "hub":
            self.registry.add_pulled(entry)
        else:
            self.registry.look()

    def _may_pull(self) -> None:
        if not self.gateway.config.models_pull:
            raise PullError("downloads are switched off here (--no-models-pull): ask who runs this gateway")

    async def _work(self, job: Job) -> None:
        if not self.known(job.model) or not job.load:
            job.state = "downloading"
            async for told in self.pull(job.model):
                job.done, job.total = told.get("completed", job.done), told.get("total", job.total)
        if job.load:
            job.state = "starting"
            await self.load(job.model)


async def _gone(served: ServedModel, process: ServerProcess | None, seconds: float) -> bool:
    """Whether the server that had a request has died, or does in so many seconds, and another one may come."""
    for _ in range(1 + round(seconds / POLL_S)):
        if served.process is not process or served.state is not State.READY:
            return served.state in (State.READY, State.STARTING, State.RESTARTING, State.FAILED)
        if seconds:
            await asyncio.sleep(POLL_S)
    return False
