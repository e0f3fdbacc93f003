"""Replays the flight log of an engine, or of vLLM under our Scheduler, on a fresh Scheduler; compares every plan. Of a
route log, of a gateway or a simulated cluster, it asks a fresh router and compares every choice.

    python -m fastserve.flightlog.replay flight.jsonl
    python -m fastserve.flightlog.replay routes.jsonl

Exits 0 if every plan or choice is reproduced; 1 at the first plan that differs, with the field and both values, or with
the number of choices that differ and the first of them; 2 if the log cannot be read. A policy or a router that the log
does not name as importable must be given: --policy mine:Mine, --router mine:Mine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

from fastserve.flightlog.lines import CUT, Line, LogError, read
from fastserve.flightlog.routes import is_route_log, replay_routes
from fastserve.flightlog.write import FACTS, Copies, plan_data
from fastserve.formats import FormatError, check_version
from fastserve.hardware import hardware_from_json
from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies.spec import PolicyLike, PolicySpec
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.errors import PolicyError, RefusedError
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy
from fastserve.sched.prefix import PrefixScheduler


@dataclass(frozen=True, slots=True)
class Report:
    """plans: reproduced ones, up to the first difference. jobs: submitted ones."""

    policy: str
    plans: int
    jobs: int
    seconds: float  # from the first event to the last
    difference: str | None
    cut: bool  # the last line is incomplete: the writer was killed

    def __str__(self) -> str:
        span = f"{self.plans} plans for {self.jobs} jobs under {self.policy} in a log of {self.seconds:.3f} s"
        tail = "; the last line is incomplete and was left out" if self.cut else ""
        if self.difference is None:
            return f"reproduced: {span}{tail}"
        return f"differs after {span}: {self.difference}"


def replay_log(path: str | PathLike[str], policy: PolicyLike | None = None) -> Report:
    """policy: overrides the log's own. Raises LogError, ValueError for an unknown policy."""
    header, lines = opened(path)
    run = Rerun.of(header, policy, path)
    first = last = None
    difference = None
    for line in lines:
        last = line
        first = first or line
        if line.data is CUT:
            break
        difference = run.checked(line, path)
        if difference is not None:
            break
    cut = last is not None and last.data is CUT
    ended = run.now
    began = ended if first is None else int(first.data.get("now", ended))
    name = str(header["policy"]) if policy is None else type(run.scheduler.policy).__name__
    return Report(name, run.plans, len(run.jobs), (ended - began) / 1e9, difference, cut)


def opened(path: str | PathLike[str]) -> tuple[dict[str, Any], Iterator[Line]]:
    """The header, and the lines behind it. Raises LogError for another file or another version."""
    lines = read(Path(path))
    header = next(lines, None)
    try:
        check_version("flight_log", None if header is None else header.data.get("flight_log"), path)
    except FormatError as error:
        raise LogError(str(error)) from None
    assert header is not None
    return header.data, lines


class Rerun:
    """A fresh Scheduler as the header says, which is told what the lines say."""

    def __init__(self, header: dict[str, Any], policy: Policy) -> None:
        hardware = hardware_from_json(header["hardware"])
        settings = dict(header["settings"])
        macro = settings.pop("macro")
        blocks = Blocks(settings.pop("device_blocks"), settings.pop("host_blocks"))
        config = SchedulerConfig.of(settings)
        times = MachineTimes(hardware, config.max_batch, header["longest"], header.get("context", 0))
        self.scheduler = config.build(policy, times, blocks, macro=macro)
        self.jobs: dict[int, Job] = {}
        self.copies = Copies()
        self.plan: Plan | None = None
        self.plans = 0
        self.now = 0

    @classmethod
    def of(cls, header: dict[str, Any], policy: PolicyLike | None, path: object) -> Self:
        """policy: overrides the header's. Raises LogError, ValueError for an unknown policy."""
        try:
            own = PolicySpec(header["policy"], header["knobs"])
            return cls(header, (own if policy is None else PolicySpec.of(policy)).fresh())
        except (KeyError, TypeError) as error:
            raise LogError(f"{path}, line 1: the header lacks or mistakes {error}") from None

    def checked(self, line: Line, path: object) -> str | None:
        """apply(), or a LogError that names the line."""
        try:
            return self.apply(line)
        except (KeyError, TypeError, AttributeError, AssertionError) as error:
            raise LogError(f"{path}, line {line.number}: {type(error).__name__} {error}; is it damaged?") from None

    def apply(self, line: Line) -> str | None:
        """Applies one event. Returns the difference as text, or None."""
        data = line.data
        now = self.now = data["now"]
        event = data["event"]
        try:
            if event == "plan":
                return self._compare(line)
            if event == "amend":
                return self._amend(line)
            if event == "commit":
                self._commit(data)
            elif event == "submit":
                job = self.jobs[data["id"]] = Job(**{name: data[name] for name in FACTS if name in data})
                job.tokens_base = data.get("generated", 0)
                self.scheduler.submit(job, now)
            elif event == "cancel":
                self.scheduler.cancel(self.jobs[data["id"]], now)
            elif event == "end_program":
                self.scheduler.end_program(data["program"], now)
            elif event == "tick":
                self.scheduler.tick(now)
            elif event == "forget_all":
                self.copies.clear()
                self.scheduler.forget_all(now)
            elif event == "resize":
                self.scheduler.resize(data["slots"])
            elif event == "resize_pool":
                self.scheduler.resize_pool(data["blocks"])
            elif event == "correct":
                self.scheduler.correct(self.jobs[data["id"]], data["tokens"], now)
            elif event == "reset_prefix_cache":
                assert isinstance(self.scheduler, PrefixScheduler)
                self.scheduler.forget_idle(now)
            else:
                raise LogError(f"line {line.number}: there is no event {event!r}")
        except RefusedError:
            pass  # it was refused in the log, too
        except PolicyError as error:
            return f"line {line.number}: {error}"
        return None

    def _compare(self, line: Line) -> str | None:
        self.plan = self.scheduler.plan(self.now)
        difference = self._difference(line, f"plan {self.plans + 1}")
        if difference is None:
            self.plans += 1
        return difference

    def _amend(self, line: Line) -> str | None:
        assert self.plan is not None, "an amend without a plan"
        data = line.data
        jobs = self.jobs
        prefill = data["prefill"]
        try:
            self.scheduler.amend(
                self.plan,
                prefill=None if prefill is None else [(jobs[id], tokens) for id, tokens in prefill],
                absent=[jobs[id] for id in data["absent"]],
                lost=[jobs[id] for id in data["lost"]],
                found={jobs[id]: tokens for id, tokens in data["found"]},
            )
        except ValueError as error:
            return f"line {line.number}: plan {self.plans} cannot be amended so: {error}"
        return self._difference(line, f"plan {self.plans}, amended,")

    def _difference(self, line: Line, what: str) -> str | None:
        """Between this run's plan and the log's, as text."""
        ours = plan_data(self.plan, self.copies)
        theirs = line.data["plan"]
        if ours == theirs:
            return None
        where = f"line {line.number}, {what} at {self.now / 1e9:.6f} s"
        if ours is None or theirs is None:
            texts = {True: "nothing to do", False: "a plan"}
            return f"{where}: this run has {texts[ours is None]}, the log {texts[theirs is None]}"
        field = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return f"{where}: {field} is {ours.get(field)!r}, the log says {theirs.get(field)!r}"

    def _commit(self, data: dict[str, Any]) -> None:
        assert self.plan is not None, "a commit without a plan"
        known = self.copies.by_number()
        copied = [known[number] for number in data["copied"]]
        self.copies.landed(copied)
        outcome = Outcome(
            data["iterations"], data["service"], data["stall"], [self.jobs[id] for id in data["ended"]], copied,
            data["first"], data["gap"], [(self.jobs[id], delta) for id, delta in data.get("extra", ())],
            {self.jobs[id]: ids for id, ids in data.get("answers", ())},
            {self.jobs[id]: tool for id, tool in data.get("calls", ())},
            [(self.jobs[id], drafted, accepted) for id, drafted, accepted in data.get("drafts", ())],
        )  # fmt: skip
        self.scheduler.commit(self.plan, outcome, self.now)
        self.plan = None


def arguments(module: str, doc: str | None) -> argparse.ArgumentParser:
    """log and policy, of a command whose help is its docstring."""
    about, _, rest = (doc or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=about, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "log", help="a flight log, as an engine with flight_log=FILE or fastserve vllm --flight-log FILE writes it"
    )
    parser.add_argument(
        "--policy", help="try this policy with its defaults, not the log's own: a name, module:Class or ./file.py:Class"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments("fastserve.flightlog.replay", __doc__)
    parser.add_argument(
        "--router", help="of a route log: try this router with its defaults: a name, module:Class or ./file.py:Class"
    )
    args = parser.parse_args(argv)
    try:
        routes = is_route_log(args.log)
        if args.policy is not None and routes:
            raise ValueError(f"{args.log} is a route log, without policies: give --router")
        if args.router is not None and not routes:
            raise ValueError(f"{args.log} is no route log, and has no router: give --policy")
        if routes:
            replayed = replay_routes(args.log, args.router)
            print(replayed)
            return 0 if replayed.differing == 0 else 1
        report = replay_log(args.log, args.policy)
    except (ValueError, OSError) as error:
        print(f"python -m fastserve.flightlog.replay: error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.difference is None else 1


if __name__ == "__main__":
    sys.exit(main())
