"""Every setting of SchedulerConfig can be set in every body, by every way there is, and reaches the Scheduler there.

A setting that is added to SchedulerConfig is tested here without a line of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_settings")

import sim
from fastserve.cli import ab, generate, serve
from fastserve.cli.arguments import ENGINE_FLAGS, SCHEDULER_FLAGS, add_settings
from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import scripted
from fastserve.policies.fcfs import Fcfs
from fastserve.sched.config import SchedulerConfig, choices, describe
from fastserve.sched.scheduler import Scheduler
from fastserve.server.config.derived import ENGINE
from fastserve.server.config.settings import FastServeConfig
from sim.__main__ import parser as sim_parser
from sim.__main__ import settings_of
from sim.settings import Settings
from sim.world import World

LATENCY = "opt-13b-a100"
TRACE = Path(__file__).parents[2] / "traces" / "azure-conv-like.jsonl"
LEAVES = (int, float, str, bool, type(None))


def another(name: str) -> Any:
    """A valid value of a setting that is not its default."""
    usual = next(field.default for field in fields(SchedulerConfig) if field.name == name)
    if choices(name):
        return next(value for value in reversed(choices(name)) if value != usual)
    if isinstance(usual, bool):
        return not usual
    if isinstance(usual, float):
        return usual + 0.5
    if name == "host_prefix_tokens":  # that it counts, room for a unit at least
        return 4096
    return 3 if usual == 0 else (usual or 127) + 1


def given(name: str, other: bool = True) -> dict[str, Any]:
    """The same as keywords, or what it is compared with. The prefix cache is on for its own settings, which change
    nothing where it is off; and off for the others, for its default differs by body. max_resident is of recompute.
    """
    needed = {"residency": "recompute"} if name == "max_resident" else {}
    needed |= {"prefix_cache": "on" if other and name.endswith("prefix_tokens") else "off"}
    return needed | ({name: another(name)} if other else {})


def written(name: str, other: bool = True) -> list[str]:
    """The same on a command line."""
    words = []
    for one, value in given(name, other).items():
        flag = one.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def inside(thing: Any, where: str = "", seen: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Path -> plain value in a Scheduler's parts; an object's is its class. Bodies choose macro themselves."""
    found = {where: type(thing).__name__}
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    for name in {*slots, *getattr(thing, "__dict__", ())} - {"policy", "machine", "macro"}:
        value = getattr(thing, name, None)
        if isinstance(value, LEAVES):
            found[f"{where}.{name}"] = value
        elif type(value).__module__.startswith("fastserve.sched") and not any(value is one for one in seen):
            found |= inside(value, f"{where}.{name}", (*seen, thing, value))
    return found


def changed(make: Callable[[bool], Scheduler | dict[str, Any]]) -> dict[str, Any]:
    """What is different in a Scheduler of make(True), with another value, from make(False), by default."""
    made = [make(other) for other in (False, True)]
    usual, other = [one if isinstance(one, dict) else inside(one) for one in made]
    return {path: value for path, value in other.items() if usual.get(path, usual) != value}


def from_settings(settings: SchedulerConfig) -> Scheduler:
    assert isinstance(settings, Settings | EngineConfig)
    if isinstance(settings, Settings):
        return settings.scheduler(Fcfs(), settings.hardware(), 100)
    with scripted(settings, latency=LATENCY) as engine:
        return engine.loop.scheduler


def by_sim_flag(words: list[str]) -> Scheduler:
    return from_settings(settings_of(sim_parser().parse_args(["trace", *words])))


def by_replay(settings: dict[str, Any]) -> dict[str, Any]:
    """inside() of its Scheduler before it runs."""
    found: dict[str, Any] = {}

    def look(world: World) -> None:
        found.update(inside(world.scheduler))

    sim.replay(TRACE, num_requests=3, rate=1.0, observe=lambda *_: look, **settings)
    return found


def by_engine(settings: dict[str, Any]) -> Scheduler:
    with Engine.scripted(policy="fcfs", latency=LATENCY, **settings) as engine:
        return engine.loop.scheduler


def parsed(command: Any, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def by_serve(words: list[str]) -> Scheduler:
    given = vars(parsed(serve, words))
    given.pop("show_config")
    return from_settings(FastServeConfig(**given).engine())


def by_ab_offline(words: list[str]) -> Scheduler:
    from fastserve.compare.offline import serving_of

    args = parsed(ab, ["--trace", "t", *words])
    return from_settings(serving_of("fcfs", {name: getattr(args, name) for name in ENGINE_FLAGS}))


def by_ab_servers(words: list[str]) -> Scheduler:
    body = ab._servers(parsed(ab, ["--trace", "t", *words]))
    return by_serve(body.flags)  # type: ignore[attr-defined]


def by_generate(words: list[str]) -> Scheduler:
    args = parsed(generate, words)
    return from_settings(EngineConfig.of({name: getattr(args, name) for name in ENGINE_FLAGS}))


EVERYWHERE = pytest.mark.parametrize("name", SCHEDULER_FLAGS)


@pytest.fixture
def wanted(name: str) -> dict[str, Any]:
    """What the setting changes in a Scheduler."""
    found = changed(lambda other: from_settings(Settings(**given(name, other))))
    assert found, f"{name} changes nothing in a Scheduler"
    return found


@EVERYWHERE
@pytest.mark.parametrize("way", [by_sim_flag, by_serve, by_ab_servers, by_generate])
def test_by_flag(name: str, wanted: dict[str, Any], way: Callable[[list[str]], Scheduler]) -> None:
    assert pools_apart(changed(lambda other: way(written(name, other)))) == pools_apart(wanted)


@EVERYWHERE
def test_by_flag_of_ab_offline(name: str, wanted: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    assert pools_apart(changed(lambda other: by_ab_offline(written(name, other)))) == pools_apart(wanted)


@EVERYWHERE
@pytest.mark.parametrize("way", [by_replay, by_engine])
def test_by_keyword(name: str, wanted: dict[str, Any], way: Callable[[dict[str, Any]], Any]) -> None:
    assert pools_apart(changed(lambda other: way(given(name, other)))) == pools_apart(wanted)


@EVERYWHERE
def test_by_environment(name: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def make(other: bool) -> Scheduler:
        for one, value in given(name, other).items():
            monkeypatch.setenv(f"FASTSERVE_{one.upper()}", str(value))
        return from_settings(FastServeConfig().engine())

    assert pools_apart(changed(make)) == pools_apart(wanted)


@EVERYWHERE
def test_by_yaml(name: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    def make(other: bool) -> Scheduler:
        file = tmp_path / f"{other}.yaml"
        file.write_text(f"serving: {json.dumps(given(name, other))}\n", encoding="utf-8")
        return from_settings(FastServeConfig(config=file).engine())

    assert pools_apart(changed(make)) == pools_apart(wanted)


def pools_apart(values: dict[str, Any]) -> dict[str, Any]:
    """Without how many blocks a pool has, which bodies round each in its own way."""
    return {path: value for path, value in values.items() if not path.endswith((".blocks", ".host", ".free"))}


@EVERYWHERE
def test_one_default_and_one_help_text(name: str) -> None:
    usual, text = getattr(SchedulerConfig(), name), describe()[name]
    assert getattr(Settings(), name) == getattr(EngineConfig(), name) == getattr(FastServeConfig(), name) == usual
    assert describe(Settings)[name] == describe(EngineConfig)[name] == text
    assert FastServeConfig.model_fields[name].description == text


def test_what_is_wrong_is_said_alike(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for make in (Settings, EngineConfig, SchedulerConfig):
        with pytest.raises(ValueError, match="prefill_guard=2") as caught:
            make(prefill_guard=2.0)
        said.append(str(caught.value))
    with pytest.raises(ValueError, match="prefill_guard=2") as caught:
        FastServeConfig(prefill_guard=2.0)
    assert said[0] in str(caught.value) and len(set(said)) == 1


def test_a_fault_from_the_environment_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastserve.__main__ import main

    monkeypatch.setenv("FASTSERVE_EVICT", "best")
    assert main(["serve", "--show-config"]) == 2
    said = capsys.readouterr().err
    assert "evict='best' is none of policy, reverse, lru (from environment FASTSERVE_EVICT)" in said


@pytest.mark.parametrize("name", ["max_batch_size", "batch_size", "max_num_seqs"])
def test_other_names_of_the_batch_cap(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    ways = [by_sim_flag([flag, "7"]), by_serve([flag, "7"]), by_generate([flag, "7"]), by_engine({name: 7})]
    assert [scheduler.slots for scheduler in ways] == [7] * 4
    assert sim.replay(TRACE, num_requests=3, **{name: 7}).settings["max_batch"] == 7
    with pytest.raises(ValueError, match=f"max_batch is given twice, the second time as {name}"):
        by_engine({"max_batch": 7, name: 7})


def test_a_server_has_every_setting_of_an_engine() -> None:
    apart = {"policy", "queue_capacity", "keep_records"}
    assert {field.name for field in fields(EngineConfig)} == {*ENGINE, *apart}
    assert set(ENGINE) <= set(FastServeConfig.model_fields)


def test_a_flag_is_made_of_a_field() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, SchedulerConfig, ("evict", "visit"))
    args = parser.parse_args(["--evict", "lru"])
    assert vars(args) == {"evict": "lru", "visit": 64}
    text = parser.format_help()
    assert "{policy,reverse,lru}" in text and "visit guard: while memory is short" in " ".join(text.split())


def test_the_table_of_the_docs() -> None:
    page = (TRACE.parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
    for field in fields(SchedulerConfig):
        usual = "" if field.default is None else field.default
        assert f"| `{field.name}` | {usual} | {describe()[field.name]} |" in page
