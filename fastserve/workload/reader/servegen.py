"""ServeGen services: not a log of requests but, per client and 10 minutes, a rate and a distribution of gaps.

A client's window of rate r gets r x 600 requests; their gaps are drawn from its distribution and rescaled to fill the
window. Lengths come from the client's distributions of that part of the day, prompt and output independently, or from
`--lengths` where the files have none. Every client and window has streams of its own, so a part of the day holds the
same requests whichever part is asked for.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastserve.workload.errors import TraceError
from fastserve.workload.lengths import draw_lengths
from fastserve.workload.reader.formats import plain
from fastserve.workload.reader.table import Table
from fastserve.workload.seed import seed_sequence
from fastserve.workload.trace import NS, IntArray, Trace, check_window

WINDOW_S = 600.0
DAY_S = 86_400
LIMIT = 3_000_000
"""Requests above which a window is refused: a day of a large service holds a hundred million."""

_MEMBER = re.compile(r"(?:.*/)?chunk-(\d+)-(trace\.csv|dataset\.json)")
_COLUMNS = ("client", "window_start_s", "rate_rps", "cv", "dist", "param1", "param2")
_MEDIA = ("image", "audio", "video")
_DISTRIBUTIONS = ("Gamma", "Weibull")


class GapWindow(NamedTuple):
    """One client from start_s on, for WINDOW_S. law: distribution of gaps; its scale is not used, gaps are rescaled."""

    start_s: float
    rate: float
    law: str
    shape: float


@dataclass(frozen=True, slots=True)
class Client:
    name: str
    windows: list[GapWindow]
    lengths: dict[int, dict[str, str]]
    """Second of the day -> field -> text of a dict {tokens: probability}; empty if the files have no lengths."""


def is_archive(data: bytes) -> bool:
    return data[257:262] == b"ustar"


def is_client_rates(names: Sequence[str]) -> bool:
    return {plain(name) for name in _COLUMNS} <= {plain(name) for name in names}


def clients_in_archive(data: bytes, path: str) -> list[Client]:
    """Clients in the order of their numbers. Members: chunk-N-trace.csv and chunk-N-dataset.json."""
    windows: dict[int, list[GapWindow]] = {}
    lengths: dict[int, dict[int, dict[str, str]]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                stream = archive.extractfile(member) if match else None
                if match is None or stream is None:
                    continue
                number, where = int(match[1]), f"{path}/{member.name}"
                if match[2] == "trace.csv":
                    windows[number] = _windows(stream.read().decode(), where)
                else:
                    lengths[number] = {int(start): dict(fields) for start, fields in json.load(stream).items()}
    except (tarfile.TarError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"the archive cannot be read ({error})", path) from None
    if not windows:
        raise TraceError("the archive holds no chunk-N-trace.csv, so it is not a ServeGen service", path)
    return [Client(str(number), windows[number], lengths.get(number, {})) for number in sorted(windows)]


def clients_in_table(table: Table) -> list[Client]:
    """Clients of a table `client, window_start_s, rate_rps, cv, dist, param1, param2`; they have no lengths."""
    if table.broken:
        raise TraceError(table.broken[0][1].message, table.path, table.broken[0][0])
    known = {plain(name): name for name in table.names}
    client, start, rate, _, law, shape, _ = (table[known[plain(name)]] for name in _COLUMNS)
    windows: dict[str, list[GapWindow]] = {}
    for row in zip(client, start, rate, law, shape, table.lines, strict=True):
        windows.setdefault(str(row[0]), []).append(_window(row[1:5], table.path, row[5]))
    return [Client(name, rows, {}) for name, rows in windows.items()]


def requests(
    clients: list[Client], path: str, lengths: str | None, seed: int, start_s: float, duration_s: float | None
) -> Trace:
    """The requests from start_s for duration_s (None: to the end), arrivals counted from the first of them.

    `lengths` is the distribution for clients without lengths of their own. A client whose own distributions are all
    empty is dropped and its requests are counted in Trace.dropped.
    """
    if lengths is None and not any(client.lengths for client in clients):
        raise TraceError(
            "these client rates have no lengths; give a distribution, such as --lengths profile:sharegpt", path
        )
    check_window(start_s, duration_s)
    end_s = float("inf") if duration_s is None else start_s + duration_s
    chosen = [
        (c, w, window)
        for c, client in enumerate(clients)
        for w, window in enumerate(client.windows)
        if window.rate > 0 and start_s < window.start_s + WINDOW_S and window.start_s < end_s
    ]
    expected = sum(window.rate for _, _, window in chosen) * WINDOW_S
    if expected > LIMIT:
        raise TraceError(
            f"this part of the service holds about {expected:,.0f} requests, more than {LIMIT:,}; "
            "choose a shorter one with --from and --for (seconds)",
            path,
        )
    dropped: Counter[str] = Counter()
    arrival, prompt, output, owner = [], [], [], []
    day = _DayLengths(clients, lengths)
    for c, w, window in chosen:
        gaps, tokens = seed_sequence(seed, c, w).spawn(2)
        times = _fill(window, np.random.default_rng(gaps))
        prompts, outputs = day.draw(c, window.start_s, len(times), tokens)
        inside = (times >= start_s) & (times < end_s)
        if not len(prompts):
            dropped["client without lengths"] += int(inside.sum())
            continue
        arrival.append(times[inside])
        prompt.append(prompts[inside])
        output.append(outputs[inside])
        owner += [c] * int(inside.sum())
    if not owner:
        raise TraceError(f"no request in the window from {start_s:g} s", path)
    ns = np.round(np.concatenate(arrival) * 1e6).astype(np.int64) * (NS // 1_000_000)
    order = np.argsort(ns, kind="stable")
    return Trace(
        name=path,
        source=f"{path} from={start_s:g} for={'end' if duration_s is None else f'{duration_s:g}'} seed={seed}",
        arrival=ns[order] - ns[order[0]],
        prompt=np.concatenate(prompt)[order],
        output=np.concatenate(output)[order],
        client=[clients[owner[i]].name for i in order.tolist()],
        dropped={reason: rows for reason, rows in dropped.items() if rows},
    )


def _windows(text: str, path: str) -> list[GapWindow]:
    rows = [(line.split(","), number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    found = []
    for cells, number in rows:
        if len(cells) != 6:
            raise TraceError(f"the row has {len(cells)} cells instead of 6", path, number)
        start, rate, _, law, shape, _ = cells
        found.append(_window((start, rate, law, shape), path, number))
    return found


def _window(cells: Sequence[object], path: str, line: int) -> GapWindow:
    start, rate, law, shape = (str(cell).strip() for cell in cells)
    try:
        window = GapWindow(float(start), float(rate), law, float(shape or 0))
    except ValueError:
        raise TraceError("window start, rate and shape must be numbers", path, line) from None
    if not (0 <= window.start_s < float("inf") and 0 <= window.rate < float("inf")):
        raise TraceError("window start and rate must be finite and not negative", path, line)
    if window.rate and (law not in _DISTRIBUTIONS or not 0 < window.shape < float("inf")):
        raise TraceError(
            f"gaps of law {law!r} and shape {shape!r}; known ones are {', '.join(_DISTRIBUTIONS)}", path, line
        )
    return window


def _fill(window: GapWindow, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Arrival seconds in one window. rate x WINDOW_S is the measured count; a fraction is rounded at random."""
    n = int(window.rate * WINDOW_S + rng.random())
    draw = rng.standard_gamma if window.law == "Gamma" else rng.weibull
    gaps = draw(window.shape, n + 1)
    total = gaps.sum()
    if not total > 0:  # a shape so small that every gap underflows
        gaps, total = np.ones(n + 1), float(n + 1)
    filled: npt.NDArray[np.float64] = window.start_s + np.cumsum(gaps[:n]) / total * WINDOW_S
    return filled


class _DayLengths:
    """Lengths per client and part of the day, each text parsed once."""

    def __init__(self, clients: list[Client], law: str | None) -> None:
        self.clients = clients
        self.law = law
        self.tables: dict[tuple[int, int, str], tuple[IntArray, npt.NDArray[np.float64]] | None] = {}

    def draw(self, c: int, start_s: float, n: int, seed: np.random.SeedSequence) -> tuple[IntArray, IntArray]:
        """(prompt, output), n rows; both empty if the client has no distribution at all."""
        client = self.clients[c]
        if not client.lengths:
            if self.law is None:
                return np.empty(0, np.int64), np.empty(0, np.int64)
            return draw_lengths(n, self.law, seed)
        inputs, outputs, media = map(np.random.default_rng, seed.spawn(3))
        part = self._part(c, int(start_s) % DAY_S)
        if part is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        field = "input_tokens" if "input_tokens" in client.lengths[part] else "text_tokens"
        prompt = self._sample(c, part, field, n, inputs)
        for kind in _MEDIA:
            # Items of one kind in a request get the same size; the files have no joint distribution.
            if f"{kind}_tokens" in client.lengths[part]:
                items = self._sample(c, part, f"{kind}_count", n, media)
                prompt = prompt + items * self._sample(c, part, f"{kind}_tokens", n, media)
        return np.maximum(prompt, 1), np.maximum(self._sample(c, part, "output_tokens", n, outputs), 1)

    def _part(self, c: int, second: int) -> int | None:
        """The part of the day that holds `second`, or where that one is empty the nearest that is not."""
        parts = self.clients[c].lengths
        full = [start for start in parts if self._table(c, start, "output_tokens") is not None]
        own = max((start for start in parts if start <= second), default=min(parts))
        return min(full, key=lambda start: (abs(start - own), start), default=None)

    def _sample(self, c: int, part: int, field: str, n: int, rng: np.random.Generator) -> IntArray:
        table = self._table(c, part, field)
        if table is None:
            return np.zeros(n, np.int64)
        values, cumulative = table
        index = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        drawn: IntArray = values[np.minimum(index, len(values) - 1)]
        return drawn

    def _table(self, c: int, part: int, field: str) -> tuple[IntArray, npt.NDArray[np.float64]] | None:
        """(values, cumulative weights) of one distribution; None if it is empty."""
        key = (c, part, field)
        if key not in self.tables:
            text = self.clients[c].lengths[part].get(field, "{}")
            try:
                law = ast.literal_eval(text)
                values = np.array([int(value) for value in law], np.int64)
                cumulative = np.cumsum(np.array(list(law.values()), np.float64))
            except (ValueError, OverflowError, SyntaxError, AttributeError, TypeError):
                client = self.clients[c].name
                raise TraceError(f"client {client}, second {part}: {field} is not a dict of probabilities") from None
            if len(values) and (values.min() < 0 or not 0 < cumulative[-1] < float("inf")):
                raise TraceError(f"client {self.clients[c].name}, second {part}: {field} has impossible numbers")
            self.tables[key] = (values, cumulative) if len(values) else None
        return self.tables[key]
