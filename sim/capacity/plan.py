"""Plan: which searches, and which runs of the curve, on which pool, and what of them is in a folder already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from sim.capacity.folder import Folder
from sim.capacity.found import Found, Point
from sim.capacity.work import Case, Running, Searching, Work
from sim.replay import travels
from sim.sweep.grid import Cell
from sim.sweep.names import Names
from sim.sweep.pool import POOLS, computed
from sim.sweep.progress import progress as bar
from sim.sweep.progress import wanted
from sim.sweep.store import digest

C = TypeVar("C")
R = TypeVar("R", Found, Point)


class Pool(NamedTuple):
    """See sim.sweep.pool.computed(). progress: a line on stderr; None: where that is a terminal."""

    name: str
    jobs: int | None
    address: str | None
    progress: bool | None


class Plan:
    """cells: the rows."""

    def __init__(
        self, work: Work, cells: Sequence[Cell], seeds: Sequence[int], pool: Pool, folder: Folder | None
    ) -> None:
        self.work = work
        self.folder = folder
        self.cells = {cell.label: cell for cell in cells}
        self.cases = [Case(cell.label, cell.spec, cell.settings, seed) for seed in seeds for cell in cells]
        self.names = Names(work.source, seeds)
        here = pool.jobs is None and pool.name == POOLS[0] and not travels([work, *self.cases])
        self.pool = pool._replace(jobs=1) if here else pool

    def searches(self) -> list[Found]:
        """All of them; after Ctrl-C those that have finished."""
        todo = {self._name(case, *self.work.goal[2:]): case for case in self.cases}
        kept = {} if self.folder is None else {name: one for name in todo if (one := self.folder.search(name))}
        done: dict[str, Found] = {}
        with suppress(KeyboardInterrupt):
            self._each("capacity", "search", Searching(self.work), todo, kept, done)
        return [done[name] for name in todo if name in done]

    def runs(self, loads: Sequence[float]) -> list[Point]:
        """Whole ones at these loads."""
        todo = {self._name(case, "at", load): (case, load) for case in self.cases for load in loads}
        kept = {} if self.folder is None else {name: one for name in todo if (one := self.folder.run(name))}
        done: dict[str, Point] = {}
        self._each("curve", "run", Running(self.work), todo, kept, done)
        return [done[name] for name in todo]

    def _name(self, case: Case, *more: object) -> str:
        """All that its result depends on. Objectives are among the settings."""
        return digest([self.names.name(self.cells[case.label], case.seed), case.label, self.work.goal.attain, *more])

    def _each(
        self, title: str, unit: str, work: Callable[[C], R], todo: Mapping[str, C], kept: Mapping[str, R],
        done: dict[str, R],
    ) -> None:  # fmt: skip
        """Puts what work() makes of each into `done` and the folder. kept: what was there."""
        done.update(kept)
        missing = {name: case for name, case in todo.items() if name not in kept}
        _, jobs, address, progress = self.pool
        results = computed(work, missing, jobs=jobs, pool=self.pool.name, address=address)
        if wanted(progress):
            results = bar(results, title, len(todo), len(kept), unit)
        for name, one in results:
            done[name] = one
            if self.folder is not None:
                self.folder.keep(name, one)
