"""Sources of settings: environment, .env and YAML, each read into {field: value}, aliases resolved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from fastserve.sched.checks import check_names, nearest, renamed
from fastserve.server.config import named_code, yaml_file
from fastserve.server.config.aliases import ALIASES, converted

PLAIN: dict[str, str] = {
    "HF_MODEL": "model",
    "HF_TOKEN": "hf_token",
    "MAX_BATCH": "max_batch",
    "MAX_NEW_TOKENS": "max_new_tokens",
    "SEED": "seed",
    "TEMPERATURE": "temperature",
    "TOP_K": "top_k",
    "TOP_P": "top_p",
}
"""Environment variables without our prefix."""

PREFIX = "FASTSERVE_"

DOTENV = "FASTSERVE_DOTENV"
"""Environment variable: off disables .env, for servers started by benchmarks."""

OTHERS = ("DOTENV", "CACHE", "COMPILED", "EXAMPLES", "NATIVE", "SCALE", "TRACE", "TRACES")
"""Variables with our prefix that other parts of the package and its tests read."""

Read = Callable[[Mapping[str, Any], Iterable[str]], dict[str, Any]]
"""(what sources of higher precedence say, names of all fields) -> what this one says"""


class Source(PydanticBaseSettingsSource):
    """A settings source of pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], read: Read) -> None:
        super().__init__(settings_cls)
        self.read = read

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.read(self.current_state, self.settings_cls.model_fields)


def environment(_: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Settings from the process environment."""
    return {field: value for field, (_, value) in _variables(os.environ, known).items()}


def dotenv(above: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Settings from .env in the current folder. Raises ValueError where it names code: see named_code."""
    found = _variables(_dotenv_values(), known)
    named_code.refuse(found, above, known)
    return {field: value for field, (_, value) in found.items()}


def file(above: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Settings from the YAML file that a source of higher precedence names. Raises ValueError."""
    path = above.get("config")
    if not path:
        return {}
    sheet = yaml_file.read(Path(path), known)
    values = {field: value for field, (_, value) in sheet.values.items()}
    together = values | dict(above)
    for switch in sheet.on:
        needed = yaml_file.NEEDS.get(switch, ())
        if needed and not any(together.get(field) for field in needed):
            raise ValueError(f"config file {path}: {switch} is true, but none of {', '.join(needed)} is given")
    return values


def named(values: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Values by field, whatever accepted name they were given under. Raises ValueError for an unknown name."""
    found = renamed({name: converted(name, value) for name, value in values.items()}, ALIASES)
    check_names("the server", found, known)
    return found


def origins(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, str]:
    """Field -> the source of its value, as text; fields at their defaults are absent."""
    found = dict.fromkeys(given, "argument")
    for where, variables in (("environment", os.environ), (".env", _dotenv_values())):
        for field, (name, value) in _variables(variables, known).items():
            found.setdefault(field, f"{where} {name}")
            if field == "config" and "config" not in given:
                given = {**given, "config": value}
    if given.get("config"):
        for field, (key, _) in yaml_file.read(Path(given["config"]), known).values.items():
            found.setdefault(field, f"{given['config']} {key}")
    return found


def strays(known: Iterable[str], config: Path | None = None) -> list[str]:
    """Warnings: variables with our prefix that are no settings, keys of the file that change nothing."""
    settings = [name.upper() for name in (*known, *ALIASES)]
    found = []
    for where, given in (("the environment", os.environ), (".env", _dotenv_values())):
        names = [name.removeprefix(PREFIX) for name in sorted(given) if name.startswith(PREFIX)]
        strange = [name for name in names if name not in settings and name not in OTHERS]
        found += [
            f"{where}: {PREFIX}{name} is no setting and changes nothing{_meant(name, settings)}" for name in strange
        ]
    if config is not None:
        idle = yaml_file.read(config, known).idle
        found += [f"config file {config}: {key} changes nothing here: {yaml_file.IDLE[key]}" for key in idle]
    return found


def _meant(name: str, settings: Iterable[str]) -> str:
    return nearest(name, settings).replace("mean ", f"mean {PREFIX}")


def _dotenv_values() -> dict[str, str | None]:
    return {} if os.environ.get(DOTENV) == "off" else dotenv_values(".env")


def _variables(variables: Mapping[str, str | None], known: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Field -> (variable, value). Our own prefix wins over the plain names; an empty variable counts as not given."""
    names = {PREFIX + field.upper(): field for field in known}
    names |= {PREFIX + alias.upper(): alias for alias in ALIASES}
    found: dict[str, tuple[str, Any]] = {}
    for variable, name in (names | PLAIN).items():
        value = variables.get(variable)
        if value:
            found.setdefault(ALIASES.get(name, name), (variable, converted(name, value)))
    return found
