"""Synthetic agents: programs of turns, each repeating all that was said before; a recipe and a seed.

    agents:programs=36,turns=lognormal:2.9,0.6,4,60,think=lognormal:2.3,1.1,1,600,forks=0.03

A turn's prompt is the last one, its answer and what a tool or a person adds. Some answers call subagents, which begin
anew behind the system prompt that all share, and for which the next turn waits. At `limit` tokens a conversation goes
on from a summary. Lengths are drawn in tokens, times in seconds, both as lengths.py says; priorities, clients and
classes as attributes.py does, one for all requests of a program. The defaults are the recorded
coding agents of traces/README.md with every length divided by about four: five contexts fit into the KV memory of the
default machine, and a dozen do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import count
from math import log
from typing import Any, Final

import numpy as np

from fastserve.workload.after import causal_order, earliest
from fastserve.workload.attributes import INNER, Attributes
from fastserve.workload.block_ids import BlockIds
from fastserve.workload.errors import TraceError
from fastserve.workload.lengths import DISTRIBUTIONS, draw
from fastserve.workload.parts import number, pairs
from fastserve.workload.recipe import parse
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import IntArray, Trace

PREFIX: Final = "agents"
_MS: Final = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Agents:
    """Raises TraceError for what cannot be drawn."""

    programs: int = 36
    gap: float = 60.0
    """mean seconds between the starts of two programs (a Poisson process)"""
    turns: str = "lognormal:2.9,0.6,4,60"
    """turns of a program, those of its subagents apart"""
    system: int = 3072
    """tokens of the prompt with which every conversation begins, subagents too"""
    first: str = "lognormal:7.8,0.9,512,30000"
    """tokens of a program's first prompt beyond the system prompt"""
    add: str = "lognormal:4.9,1.6,4,9000"
    """tokens that a tool or a person adds to prompt and answer before it"""
    output: str = "lognormal:4.3,0.9,16,2400"
    think: str = "lognormal:2.3,1.2,1,1200"
    """seconds that a tool takes"""
    people: float = 0.1
    """share of the turns that a person answers, not a tool"""
    reply: str = "lognormal:4,1.6,5,3600"
    """seconds that a person takes"""
    tools: str = "read*0.3|edit*0.5|bash*1|test*3"
    """names, and by how much longer than `think` each takes; equally often"""
    forks: float = 0.03
    """share of the turns whose answer calls subagents"""
    subagents: str = "zipf:1,1,3"
    """how many at once"""
    inner: str = "lognormal:1.6,0.5,1,12"
    """turns of a subagent"""
    limit: int = 40000
    """tokens of a prompt at which its conversation goes on from a summary of an eighth"""
    block: int = 256
    """tokens of a block id"""
    priorities: str | None = None
    clients: str | None = None
    classes: str | None = None

    @classmethod
    def parse(cls, text: str) -> Agents:
        """From agents:KEY=VALUE,...; any order, any part left out. Raises TraceError."""
        try:
            given: dict[str, Any] = dict(pairs(text.partition(":")[2], [field.name for field in fields(cls)], _INNER))
            for field in fields(cls):
                if field.name in given and field.type in ("int", "float"):
                    kind: type[int] | type[float] = int if field.type == "int" else float
                    given[field.name] = number(given[field.name], kind, field.name)
            recipe = cls(**given)
        except ValueError as error:
            raise TraceError(f"--synth agents: {error}") from None
        replace(recipe, programs=1).trace(0)
        return recipe

    def __post_init__(self) -> None:
        for name in ("programs", "block", "limit"):
            if getattr(self, name) < 1:
                raise TraceError(f"{name}={getattr(self, name)} must be at least 1")
        if self.programs > 1_000_000:
            raise TraceError(f"programs={self.programs:,} must be at most 1,000,000")
        if self.system < 0 or not 0 < self.gap < 1e9:
            raise TraceError(f"system={self.system} must not be negative, and gap={self.gap:g} s must be above 0")
        for name in ("people", "forks"):
            if not 0 <= getattr(self, name) <= 1:
                raise TraceError(f"{name}={getattr(self, name)} is a share, from 0 to 1")
        if self.limit < 2 * self.system + 1024:
            raise TraceError(f"limit={self.limit} leaves no room behind a system prompt of {self.system} tokens")
        self._factors()

    def __str__(self) -> str:
        """As parse() reads it; what is as by default is left out."""
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        parts = [
            f"{name}={value:.12g}" if isinstance(value, float) else f"{name}={value}"
            for name, value, default in given
            if value != default
        ]
        return f"{PREFIX}:{','.join(parts)}"

    def trace(self, seed: int) -> Trace:
        """The draw of this seed."""
        return _Draw(self, seed).trace()

    def typical(self) -> Trace:
        return self.trace(0)

    @property
    def rate(self) -> float:
        """Requests/s of the draw of seed 0, if answers took no time."""
        return self.trace(0).rate

    def at_rate(self, rate: float) -> Agents:
        """Programs begin so often that there are so many requests/s in the long run."""
        return replace(self, gap=len(self.trace(0)) / self.programs / rate)

    def _factors(self) -> list[tuple[str, float]]:
        found = []
        for part in self.tools.split("|"):
            name, _, factor = part.partition("*")
            try:
                found.append((name.strip(), float(factor or 1)))
            except ValueError:
                raise TraceError(f"tools: {part!r} is no NAME*FACTOR; write read*0.3|bash*1") from None
            if not name.strip() or not 0 <= found[-1][1] < 1e6:
                raise TraceError(f"tools: {part!r} is no NAME*FACTOR; write read*0.3|bash*1")
        return found


_INNER: Final = INNER.union(*DISTRIBUTIONS.values())


class _Draw:
    """Draws one trace. Each property has a stream of its own: to change one leaves the others as they were."""

    def __init__(self, recipe: Agents, seed: int) -> None:
        self.recipe = recipe
        self.seed = seed
        root = seed_sequence(seed)
        streams = iter(root.spawn(16))
        self.starts = np.random.default_rng(next(streams))
        self.counts = draw(recipe.turns, "turns", recipe.programs, np.random.default_rng(next(streams))).tolist()
        rngs = [np.random.default_rng(stream) for stream in streams]
        self.first = _stream(recipe.first, rngs[0])
        self.add = _stream(recipe.add, rngs[1])
        self.output = _stream(recipe.output, rngs[2])
        self.think = _stream(recipe.think, rngs[3], _MS // 1000)
        self.reply = _stream(recipe.reply, rngs[4], _MS // 1000)
        self.chance = rngs[5]
        self.tool = rngs[6]
        self.several = _stream(recipe.subagents, rngs[7])
        self.inner = _stream(recipe.inner, rngs[8])
        self.inner_add, self.inner_output = _stream(recipe.add, rngs[9]), _stream(recipe.output, rngs[10])
        self.inner_think, self.inner_tool = _stream(recipe.think, rngs[11], _MS // 1000), rngs[12]
        self.factors = recipe._factors()
        self.fresh = count()
        self.system = [next(self.fresh) for _ in range(recipe.system // recipe.block)]
        self.arrival: list[int] = []
        self.prompt: list[int] = []
        self.outputs: list[int] = []
        self.after: list[tuple[int, ...]] = []
        self.thinks: list[int] = []
        self.tools: list[str] = []
        self.program: list[str] = []
        self.ids = BlockIds()
        others = Attributes(recipe.priorities, recipe.clients, recipe.classes)
        self.others = others.drawn(recipe.programs, root)  # by program
        self.of: list[int] = []  # the number of each row's program

    def trace(self) -> Trace:
        recipe = self.recipe
        gaps = self.starts.standard_exponential(recipe.programs) * recipe.gap * 1000
        gaps[0] = 0
        starts = (np.cumsum(np.rint(gaps)).astype(np.int64) * _MS).tolist()
        for number_, (turns, start) in enumerate(zip(self.counts, starts, strict=True)):
            self._program(f"agent{number_}", turns, start)
            self.of += [number_] * (len(self.prompt) - len(self.of))
        arrival = earliest(np.array(self.arrival, np.int64), self.after, np.array(self.thinks, np.int64))
        order = causal_order(arrival.tolist(), self.after)
        place = {row: new for new, row in enumerate(order)}
        index = np.array(order, np.intp)

        def taken(values: list[int]) -> IntArray:
            return np.array(values, np.int64)[index]

        of = taken(self.of)
        others: dict[str, Any] = {
            name: column[of] if isinstance(column, np.ndarray) else [column[number_] for number_ in of.tolist()]
            for name, column in self.others.items()
        }

        return Trace(
            name=PREFIX,
            source=f"{recipe} seed={self.seed}",
            arrival=arrival[index],
            prompt=taken(self.prompt),
            output=taken(self.outputs),
            program=[self.program[row] for row in order],
            hash_ids=self.ids.take(index),
            block_size=recipe.block,
            after=[tuple(sorted(place[other] for other in self.after[row])) for row in order],
            think=taken(self.thinks),
            tool=[self.tools[row] for row in order],
            **others,
        )

    def _program(self, name: str, turns: int, start: int) -> None:
        recipe = self.recipe
        context = _Context(self, next(self.first))
        before: tuple[int, ...] = ()
        think = 0
        for turn in range(turns):
            output = next(self.output)
            row = self._row(name, start, context, output, before, think)
            context.row = row
            chance, person = self.chance.random(2)
            tool, factor = self.factors[int(self.tool.integers(len(self.factors)))]
            took, reply = next(self.think), next(self.reply)
            added = next(self.add)
            if turn == turns - 1:
                break
            before, think = (row,), max(1, round(took * factor)) * _MS
            if chance < recipe.forks:
                self.tools[row] = "subagent"
                before = (row, *[self._subagent(name, start, row) for _ in range(next(self.several))])
                think = _MS
            elif person < recipe.people:
                think = reply * _MS
            else:
                self.tools[row] = tool
            context.grow(output + added)

    def _subagent(self, name: str, start: int, caller: int) -> int:
        """Returns its last row."""
        context = _Context(self, next(self.inner_add))
        row, think = caller, _MS
        for _ in range(next(self.inner)):
            output = next(self.inner_output)
            row = self._row(name, start, context, output, (row,), think)
            context.row = row
            tool, factor = self.factors[int(self.inner_tool.integers(len(self.factors)))]
            self.tools[row] = tool
            think = max(1, round(next(self.inner_think) * factor)) * _MS
            context.grow(output + next(self.inner_add))
        self.tools[row] = ""
        return row

    def _row(self, name: str, start: int, context: _Context, output: int, before: tuple[int, ...], think: int) -> int:
        self.ids.append(context.ids, context.row)
        self.arrival.append(start)
        self.prompt.append(context.tokens)
        self.outputs.append(output)
        self.after.append(before)
        self.thinks.append(think if before else 0)
        self.tools.append("")
        self.program.append(name)
        return len(self.prompt) - 1


class _Context:
    """What a conversation says so far: tokens, and the ids of its full blocks. row: its last one."""

    def __init__(self, of: _Draw, tokens: int) -> None:
        self.of = of
        self.row = -1
        self.ids = list(of.system)
        self.tokens = of.recipe.system
        self.grow(tokens)

    def grow(self, tokens: int) -> None:
        recipe = self.of.recipe
        self.tokens += tokens
        if self.tokens > recipe.limit:
            self.tokens = recipe.system + recipe.limit // 8
            self.ids = list(self.of.system)
        self.tokens = max(1, self.tokens)
        self.ids += [next(self.of.fresh) for _ in range(self.tokens // recipe.block - len(self.ids))]


def _stream(spec: str, rng: np.random.Generator, scale: int = 1) -> Iterator[int]:
    """Draws without end. scale: what is drawn is in units this much smaller than those of the spec."""
    text = spec
    if scale != 1:
        name, values = parse(spec, DISTRIBUTIONS)
        if name == "lognormal":
            values = values | {"mu": values["mu"] + log(scale), "lo": values["lo"] * scale, "hi": values["hi"] * scale}
            text, scale = f"{name}:{','.join(f'{value:.15g}' for value in values.values())}", 1
    draw(text, "", 1, np.random.default_rng(0))  # wrong ones are told before anything is drawn

    def drawn() -> Iterator[int]:
        while True:
            yield from (draw(text, "", 256, rng) * scale).tolist()

    return drawn()
