"""The Chrome trace event format, as strictly as viewers could take it. check() raises AssertionError.

Rules of the format (complete events, instants, counters, metadata) and of those who draw it: a track's slices nest,
every process and every thread that is used has a name before, a thread's number is no other's, an arrow's first slice
only sends and each later one receives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, NamedTuple

COMMON = {"name", "ph", "pid", "tid", "ts", "args"}
ALLOWED = {
    "M": COMMON,
    "X": COMMON | {"cat", "dur", "bind_id", "flow_in", "flow_out"},
    "i": COMMON | {"cat", "s"},
    "C": COMMON | {"cat"},
}
METADATA = {"process_name": "name", "process_sort_index": "sort_index", "thread_name": "name",
            "thread_sort_index": "sort_index"}  # fmt: skip


class Track(NamedTuple):
    group: str
    name: str


class Checked(NamedTuple):
    events: list[dict[str, Any]]
    groups: dict[int, str]  # pid -> name
    tracks: dict[int, Track]  # tid -> where

    def slices(self, beginning: str, group: str | None = None) -> dict[str, list[tuple[int, int, dict[str, Any]]]]:
        """Of the tracks whose names begin so: track -> (start, end, event) in whole ns, as a viewer sorts them."""
        found = defaultdict(list)
        for event in self.events:
            track = self.tracks[event["tid"]] if event["ph"] == "X" else Track("", "")
            if event["ph"] == "X" and track.name.startswith(beginning) and group in (None, track.group):
                start = round(event["ts"] * 1000)
                found[track.name].append((start, start + round(event["dur"] * 1000), event))
        return {name: sorted(events, key=lambda event: event[0]) for name, events in found.items()}


def check(text: str, whole: bool = True) -> Checked:
    """whole: the run went to its end, so that no arrow is left without an end."""
    events = json.loads(text)
    assert isinstance(events, list)
    groups: dict[int, str] = {}
    names: dict[tuple[int, int], str] = {}
    for event in events:
        _one(event)
        pid, tid = event["pid"], event["tid"]
        if event["name"] == "process_name" and event["ph"] == "M":
            assert pid not in groups, f"a second name for process {pid}"
            groups[pid] = event["args"]["name"]
        elif event["name"] == "thread_name" and event["ph"] == "M":
            assert (pid, tid) not in names, f"a second name for thread {tid}"
            names[pid, tid] = event["args"]["name"]
        assert pid in groups, f"{event}: its process has no name yet"
        assert event["ph"] == "M" or (pid, tid) in names, f"{event}: its thread has no name yet"
    numbers = [tid for _, tid in names]
    assert len(set(numbers)) == len(numbers), "a thread's number is another's too"
    assert not set(numbers) & set(groups), "a thread has the number of a process"
    found = Checked(events, groups, {tid: Track(groups[pid], name) for (pid, tid), name in names.items()})
    _nested(events)
    _joined(events, whole)
    return found


def _one(event: dict[str, Any]) -> None:
    phase = event["ph"]
    assert phase in ALLOWED, event
    assert set(event) <= ALLOWED[phase] and set(event) >= COMMON, event
    assert isinstance(event["name"], str) and event["name"], event
    assert isinstance(event["args"], dict), event
    for number in ("pid", "tid"):
        assert type(event[number]) is int and 0 < event[number] < 2**32, event
    assert isinstance(event["ts"], (int, float)) and event["ts"] >= 0, event
    if phase == "X":
        assert isinstance(event["dur"], (int, float)) and event["dur"] >= 0, event
        assert event.get("flow_out", False) == ("bind_id" in event), event
        assert "flow_in" not in event or "bind_id" in event, event
        assert int(event.get("bind_id", "0x1"), 16) > 0, event
    elif phase == "i":
        assert event["s"] in ("t", "p", "g"), event
    elif phase == "C":
        assert event["args"] and all(type(value) in (int, float) for value in event["args"].values()), event
    else:
        value = event["args"][METADATA[event["name"]]]
        assert type(value) is (int if event["name"].endswith("index") else str), event


def _nested(events: list[dict[str, Any]]) -> None:
    """A viewer sorts by ts, events of one time as they stand in the file, a slice into the one that is open."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start = round(event["ts"] * 1000)
            tracks[event["tid"]].append((start, start + round(event["dur"] * 1000), event))
    for slices in tracks.values():
        open_until: list[int] = []
        for start, end, event in sorted(slices, key=lambda each: each[0]):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1], f"{event} ends after the slice that it is in"
            open_until.append(end)


def _joined(events: list[dict[str, Any]], whole: bool) -> None:
    flows = defaultdict(list)
    for event in events:
        if "bind_id" in event:
            flows[event["bind_id"]].append(event)
    for name, slices in flows.items():
        slices.sort(key=lambda event: event["ts"])
        assert len({event["pid"] for event in slices}) == 1, f"arrow {name} goes from group to group"
        jobs = {event["name"].partition(",")[0] for event in slices}
        assert len(jobs) == 1, f"arrow {name} joins {jobs}"
        if whole:
            assert len(slices) > 1, f"arrow {name} joins nothing: {slices}"
        inward = [event.get("flow_in", False) for event in slices]
        assert inward == [False] + [True] * (len(slices) - 1), f"arrow {name}: {slices}"
