"""A route log: what a router was told and chose, read back and asked again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, TextIO

import pytest

from fastserve.flightlog import routes
from fastserve.flightlog.lines import LogError
from fastserve.flightlog.replay import main
from fastserve.flightlog.routes import RouteLog, is_route_log, replay_routes
from fastserve.routers import ROUTERS, Replica, ReplicaView, Router, RouterError, RouterFacts, chosen, make
from fastserve.routers.conformance.scripts import SHAPES, Run, Script
from fastserve.routers.spec import RouterLike, RouterSpec
from fastserve.sched.job import Job

FACTS = RouterFacts((Replica("replica-0"), Replica("replica-1", 4.0), Replica("replica-2", 0.5)), 64, 3)


def record(path: Path, router: RouterLike, script: Script) -> int:
    """Plays a script with a router in a log. Returns how many choices it made."""
    spec = RouterSpec.of(router)
    log = RouteLog(path, spec, wait=True)
    run = Run(log.around(spec.fresh()), script)
    run.play()
    log.close()
    return len(run.choices)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("name", ROUTERS)
def test_every_choice_is_made_again(name: str, shape: Script, tmp_path: Path) -> None:
    choices = record(tmp_path / "log", name, shape)
    replayed = replay_routes(tmp_path / "log")
    assert (replayed.choices, replayed.differing, replayed.end) == (choices, 0, "")
    assert choices >= shape.jobs


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """least-tokens with its settings: three requests, one of which fails and goes elsewhere."""
    spec = RouterSpec.of("least-tokens", {"decode": 2.0})
    path = tmp_path / "small.jsonl"
    log = RouteLog(path, spec, FACTS)
    router = log.around(spec.fresh())
    router.begin(FACTS)
    views = [ReplicaView(0, "replica-0", queued_tokens=50), ReplicaView(2, "replica-2", age=7, free_tokens=0)]
    job = Job(7, 1000, 640, guess=9, program="p\ud800", ids=[2**63, 5])
    assert chosen(router, job, views) == 1
    router.sent(job, 2, 1000)
    router.failed(job, 2, 2000)
    router.lost(2, 2000)
    assert chosen(router, job, views[:1]) == 0
    router.sent(job, 0, 2001)
    router.ended(job, 0, 5000, 12)
    router.came(2, "replica-2", 0.5, 6000)
    assert chosen(router, Job(8, 7000, 1), views) == 1
    log.close()
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_stands_in_it(small: Path) -> None:
    first, *rest = lines(small)
    assert first == {
        "kind": "routes", "version": 1, "router": "least-tokens", "knobs": {"decode": 2.0}, "seed": 3,
        "unit_tokens": 64, "replicas": [
            {"name": "replica-0", "weight": 1.0}, {"name": "replica-1", "weight": 4.0},
            {"name": "replica-2", "weight": 0.5},
        ],
    }  # fmt: skip
    views = [
        {"replica": 0, "name": "replica-0", "queued_tokens": 50},
        {"replica": 2, "name": "replica-2", "age": 7, "free_tokens": 0},
    ]
    job = {"id": 7, "arrival": 1000, "prompt": 640, "guess": 9, "program": "p\ud800", "ids": [2**63, 5]}
    assert rest == [
        {"e": "route", "t": 1000, "job": job, "views": views, "to": 1},
        {"e": "sent", "t": 1000, "job": 7, "replica": 2},
        {"e": "failed", "t": 2000, "job": 7, "replica": 2},
        {"e": "lost", "t": 2000, "replica": 2},
        {"e": "route", "t": 2000, "job": job, "views": views[:1], "to": 0},
        {"e": "sent", "t": 2001, "job": 7, "replica": 0},
        {"e": "ended", "t": 5000, "job": 7, "replica": 0, "tokens": 12},
        {"e": "came", "t": 6000, "replica": 2, "name": "replica-2", "weight": 0.5},
        {"e": "route", "t": 7000, "job": {"id": 8, "arrival": 7000, "prompt": 1}, "views": views, "to": 1},
        {"e": "end"},
    ]


def test_views_are_written_as_they_were(tmp_path: Path) -> None:
    """The body changes its views as soon as it has been answered."""
    log = RouteLog(tmp_path / "log", "round-robin")
    router = log.around(make("round-robin"))
    router.begin(FACTS)
    view = ReplicaView(0, "replica-0")
    for number in range(200):
        view.outstanding = number + 1
        router.route(Job(number, number, 1), [view])
        view.outstanding = -1
    log.close()
    assert [line["views"][0]["outstanding"] for line in lines(tmp_path / "log")[1:-1]] == list(range(1, 201))


def test_another_router_is_told_what_happened_and_its_choices_are_counted(small: Path) -> None:
    replayed = replay_routes(small, "round-robin")
    assert (replayed.choices, replayed.differing) == (3, 1)
    assert replayed.first == "line 2, job 7 at 0.000001 s: replica-0 (0), in the log replica-2 (2)"
    assert str(replayed).startswith("1 of 3 choices of round-robin differ; the first: line 2, job 7")
    other = replay_routes(small, RouterSpec.of("least-tokens", {"prefill": 0, "decode": 1}))
    assert "(0 tokens to compute, the others 0 and more)" in other.first


def test_a_retried_job_is_one_object(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Job] = []

    class Sees(Router):
        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            seen.append(job)
            return 0

        def ended(self, job: Job, replica: int, now: int, tokens: int) -> None:
            seen.append(job)

    replay_routes(small, Sees)
    assert seen[0] is seen[1] is seen[2]
    assert (seen[0].ids, seen[0].guess, seen[0].program, seen[0].limit) == ([2**63, 5], 9, "p\ud800", 1 << 60)


class Breaks(Router):
    """Never finds anything."""

    def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
        return 9 if job.id else [][0]


def test_a_router_that_breaks_is_written_and_breaks_again(tmp_path: Path) -> None:
    log = RouteLog(tmp_path / "log", Breaks)
    router = log.around(Breaks())
    router.begin(FACTS)
    for number in range(2):
        with pytest.raises(RouterError, match=r"^router Breaks, route\(\) of job"):
            chosen(router, Job(number, 0, 1), [ReplicaView(0, "replica-0")])
    log.close()
    assert [line["to"] for line in lines(tmp_path / "log")[1:-1]] == [None, None]
    assert "must return an index from 0 to 0, not 9" in lines(tmp_path / "log")[2]["error"]
    assert replay_routes(tmp_path / "log").differing == 0
    replayed = replay_routes(tmp_path / "log", "random")
    assert replayed.first.endswith("replica-0 (0), in the log the router broke")


def test_a_router_that_breaks_when_it_is_told_something_is_named(small: Path) -> None:
    class Deaf(Router):
        def route(self, job: Job, views: Sequence[ReplicaView]) -> int:
            return len(views) - 1

        def lost(self, replica: int, now: int) -> None:
            raise ZeroDivisionError("oh")

    replayed = replay_routes(small, Deaf)
    assert (replayed.choices, replayed.differing) == (3, 0)
    assert str(replayed) == "reproduced: 3 choices of Deaf; router Deaf, lost(): ZeroDivisionError: oh"


def test_the_command(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_route_log(small)
    assert main([str(small)]) == 0
    assert capsys.readouterr().out == "reproduced: 3 choices of least-tokens\n"
    assert main([str(small), "--router", "round_robin"]) == 1
    assert capsys.readouterr().out.startswith("1 of 3 choices of round_robin differ; the first: line 2, job 7 at")
    for words, says in (
        (["--router", "nope"], "no router 'nope'; there are round-robin"),
        (["--policy", "fcfs"], "is a route log, without policies: give --router"),
    ):
        assert main([str(small), *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and says in err and err.count("\n") == 1


def test_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    for text in ("", "[]\n", "{}\n", "nonsense\n", '{"flight_log": 1}\n', "\xff\x00\n"):
        other.write_bytes(text.encode("latin-1"))
        assert not is_route_log(other)
        with pytest.raises(LogError):
            replay_routes(other)
    other.write_text("{}\n")
    assert main([str(other), "--router", "random"]) == 2
    assert "is no route log, and has no router: give --policy" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_log_of_a_router_in_a_file_is_replayed_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    source = "from fastserve import Router\n\nclass Last(Router):\n    def route(self, job, views):\n"
    source += "        return len(views) - 1\n"
    (tmp_path / "last_router.py").write_text(source, encoding="utf-8")
    record(tmp_path / "log", "./last_router.py:Last", SHAPES[0])
    monkeypatch.chdir(tmp_path.parent)
    assert replay_routes(tmp_path / "log").differing == 0


# -- damage ------------------------------------------------------------------------------------------------------------


def damaged(path: Path, number: int, change: Any) -> Path:
    """Line `number`, from 1, changed."""
    kept = path.read_text().splitlines(keepends=True)
    line = json.loads(kept[number - 1])
    kept[number - 1] = change if isinstance(change, str) else json.dumps(change(line)) + "\n"
    path.write_text("".join(kept))
    return path


def without(*keys: str) -> Any:
    return lambda line: {key: value for key, value in line.items() if key not in keys}


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (4, "{nonsense\n", "line 4 is not JSON"),
        (4, "[]\n", "line 4 is not a JSON object"),
        (2, without("views"), "line 2: KeyError 'views'; is it damaged?"),
        (2, lambda line: {**line, "views": []}, "line 2: ValueError 1 is no index of 0 views"),
        (2, lambda line: {**line, "to": 2}, "line 2: ValueError 2 is no index of 2 views"),
        (2, lambda line: {**line, "to": "1"}, "line 2: TypeError"),
        (2, lambda line: {**line, "job": {"id": 7}}, "line 2: TypeError"),
        (2, lambda line: {**line, "views": [1, 2]}, "line 2: AttributeError"),
        (3, lambda line: {**line, "job": 99}, "line 3: KeyError 99; is it damaged?"),
        (8, without("tokens"), "line 8: KeyError 'tokens'"),
        (5, lambda line: {**line, "e": "sold"}, "line 5: ValueError there is no event 'sold'"),
        (5, without("e"), "line 5: KeyError 'e'"),
        (1, lambda line: {**line, "version": 2}, "is a route log of version 2, written by a newer fastserve"),
        (1, without("version"), "is no route log: it does not say its version"),
        (1, without("seed"), "line 1: the header lacks or mistakes 'seed'"),
        (1, without("router"), "line 1: the header lacks or mistakes 'router'"),
        (1, lambda line: {**line, "replicas": 3}, "line 1: the header lacks or mistakes"),
    ],
)
def test_damage_is_named(small: Path, number: int, change: Any, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    damaged(small, number, change)
    with pytest.raises(LogError) as error:
        replay_routes(small)
    assert says in str(error.value)
    if number > 1:
        assert main([str(small)]) == 2
        assert says in capsys.readouterr().err


def test_a_log_that_was_cut(small: Path) -> None:
    text = small.read_text()
    small.write_text(text[:-30])
    assert replay_routes(small).end == "the last line is incomplete and was left out"
    assert str(replay_routes(small)) == (
        "reproduced: 2 choices of least-tokens; the last line is incomplete and was left out"
    )
    small.write_text("".join(text.splitlines(keepends=True)[:-2]))
    assert replay_routes(small).end.startswith("the log does not say that it ended: its writer is still running")


def test_what_is_unknown_of_a_newer_version_is_left_alone(small: Path) -> None:
    damaged(small, 2, lambda line: {**line, "why": "x", "job": {**line["job"], "mood": 1}, "views": [
        {**view, "mood": 1} for view in line["views"]]})  # fmt: skip
    assert replay_routes(small).differing == 0


# -- the writer --------------------------------------------------------------------------------------------------------


class Slow:
    """A disk that takes a moment for each write, or is full."""

    def __init__(self, file: TextIO, error: OSError | None = None, wait: float = 0.0) -> None:
        self.file, self.error, self.wait, self.closed = file, error, wait, False

    def write(self, text: str) -> int:
        time.sleep(self.wait)
        if self.error is not None:
            raise self.error
        return self.file.write(text)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.closed = True
        self.file.close()


def slow(log: RouteLog, **how: Any) -> None:
    log._file = Slow(log._file, **how)  # type: ignore[assignment]


def test_a_disk_that_is_behind_ends_the_log_and_not_the_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routes, "MOST", 5)
    log = RouteLog(tmp_path / "log", "round-robin")
    slow(log, wait=0.01)
    router = log.around(make("round-robin"))
    router.begin(FACTS)
    for number in range(60):
        router.route(Job(number, number, 1), [ReplicaView(0, "a"), ReplicaView(1, "b")])
    log.close()
    assert caplog.text.count("ends here, routing goes on: 5 events waited for the disk") == 1
    replayed = replay_routes(tmp_path / "log")
    assert 0 < replayed.choices < 60 and replayed.differing == 0
    assert replayed.end == "it could not be written on: 5 events waited for the disk"


def test_a_sender_that_waits_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MOST", 5)
    log = RouteLog(tmp_path / "log", "round-robin", wait=True)
    slow(log, wait=0.0005)
    router = log.around(make("round-robin"))
    router.begin(FACTS)
    for number in range(100):
        router.route(Job(number, number, 1), [ReplicaView(0, "a"), ReplicaView(1, "b")])
    log.close()
    assert replay_routes(tmp_path / "log").choices == 100


@pytest.mark.parametrize("wait", [False, True])
def test_a_full_disk(
    wait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routes, "MOST", 5)
    log = RouteLog(tmp_path / "log", "round-robin", wait=wait)
    slow(log, error=OSError(28, "No space left on device"))
    router = log.around(make("round-robin"))
    router.begin(FACTS)
    for number in range(100):
        assert router.route(Job(number, number, 1), [ReplicaView(0, "a")]) == 0
        time.sleep(0.0001)
    log.close()
    log.close()
    assert caplog.text.count("No space left on device") == 1
    assert (tmp_path / "log").read_text() == ""


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RouteLog(tmp_path / "none" / "log", "random")


def test_a_log_of_a_run_that_never_began(tmp_path: Path) -> None:
    RouteLog(tmp_path / "log", "random").close()
    with pytest.raises(LogError, match="is no route log"):
        replay_routes(tmp_path / "log")


def test_what_is_told_after_the_end_is_not_written(tmp_path: Path) -> None:
    log = RouteLog(tmp_path / "log", "random")
    router = log.around(make("random"))
    router.begin(FACTS)
    log.close()
    router.lost(0, 1)
    log.close()
    assert len(lines(tmp_path / "log")) == 2


def test_any_truncation_is_read_or_refused(small: Path) -> None:
    """No cut of the file, at any byte, is anything but a shorter log or a named error."""
    text = small.read_bytes()
    header = text.index(b"\n")
    for at in Random(0).sample(range(len(text) - 1), 300):
        small.write_bytes(text[:at])
        if at < header:
            with pytest.raises(LogError):
                replay_routes(small)
        elif at > header:
            assert replay_routes(small).end
