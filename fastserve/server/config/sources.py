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
from fastserve.server.config.dialect import Dialect

DOTENV = "FASTSERVE_DOTENV"
"""Environment variable: off disables .env, for servers started by benchmarks."""

Read = Callable[[Mapping[str, Any], Iterable[str], Dialect], dict[str, Any]]
"""(what sources of higher precedence say, names of all fields, how they are written) -> what this one says"""


class Source(PydanticBaseSettingsSource):
    """A settings source of pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], read: Read, dialect: Dialect) -> None:
        super().__init__(settings_cls)
        self.read = read
        self.dialect = dialect

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.read(self.current_state, self.settings_cls.model_fields, self.dialect)


def environment(_: Mapping[str, Any], known: Iterable[str], dialect: Dialect) -> dict[str, Any]:
    """Settings from the process environment."""
    return {field: value for field, (_, value) in _variables(os.environ, known, dialect).items()}


def dotenv(above: Mapping[str, Any], known: Iterable[str], dialect: Dialect) -> dict[str, Any]:
    """Settings from .env in the current folder. Raises ValueError where it names code: see named_code."""
    found = _variables(_dotenv_values(), known, dialect)
    named_code.refuse(found, above, known, dialect)
    return {field: value for field, (_, value) in found.items()}


def file(above: Mapping[str, Any], known: Iterable[str], dialect: Dialect) -> dict[str, Any]:
    """Settings from the YAML file that a source of higher precedence names. Raises ValueError."""
    path = above.get("config")
    if not path:
        return {}
    sheet = yaml_file.read(Path(path), known, dialect)
    values = {field: value for field, (_, value) in sheet.values.items()}
    for field, (key, _) in sheet.values.items():
        of, only = dialect.tree.only.get(f"{key.partition('.')[0]}.", (None, None))
        if of is not None and (values | dict(above)).get(of) != only:
            del values[field]
    together = values | dict(above)
    for switch in sheet.on:
        needed = dialect.tree.needs.get(switch, ())
        if needed and not any(together.get(field) for field in needed):
            raise ValueError(f"config file {path}: {switch} is true, but none of {', '.join(needed)} is given")
    return values


def named(values: Mapping[str, Any], known: Iterable[str], dialect: Dialect) -> dict[str, Any]:
    """Values by field, whatever accepted name they were given under. Raises ValueError for an unknown name."""
    found = renamed({name: dialect.convert(name, value) for name, value in values.items()}, dialect.aliases)
    check_names(dialect.program, found, known)
    return found


def origins(given: Mapping[str, Any], known: Iterable[str], dialect: Dialect) -> dict[str, str]:
    """Field -> the source of its value, as text; fields at their defaults are absent."""
    found = dict.fromkeys(given, "argument")
    for where, variables in (("environment", os.environ), (".env", _dotenv_values())):
        for field, (name, value) in _variables(variables, known, dialect).items():
            found.setdefault(field, f"{where} {name}")
            if field == "config" and "config" not in given:
                given = {**given, "config": value}
    if given.get("config"):
        for field, (key, _) in yaml_file.read(Path(given["config"]), known, dialect).values.items():
            found.setdefault(field, f"{given['config']} {key}")
    return found


def strays(known: Iterable[str], dialect: Dialect, config: Path | None = None) -> list[str]:
    """Warnings: variables with the prefix that are no settings, keys of the file that change nothing."""
    settings = [name.upper() for name in (*known, *dialect.aliases)]
    found = []
    for where, given in (("the environment", os.environ), (".env", _dotenv_values())):
        names = [name.removeprefix(dialect.prefix) for name in sorted(given) if name.startswith(dialect.prefix)]
        found += [
            f"{where}: {dialect.prefix}{name} is no setting and changes nothing{_meant(name, settings, dialect)}"
            for name in names
            if name not in settings and not _is_other(name, dialect)
        ]
        found += [f"{where}: {name} changes nothing: {why}" for name, why in dialect.idle.items() if given.get(name)]
    if config is not None:
        idle = yaml_file.read(config, known, dialect).idle
        found += [f"config file {config}: {key} changes nothing here: {why}" for key, why in idle.items()]
    return found


def _is_other(name: str, dialect: Dialect) -> bool:
    return any(name == other or (other.endswith("_") and name.startswith(other)) for other in dialect.others)


def _meant(name: str, settings: Iterable[str], dialect: Dialect) -> str:
    return nearest(name, settings).replace("mean ", f"mean {dialect.prefix}")


def _dotenv_values() -> dict[str, str | None]:
    return {} if os.environ.get(DOTENV) == "off" else dotenv_values(".env")


def _variables(
    variables: Mapping[str, str | None], known: Iterable[str], dialect: Dialect
) -> dict[str, tuple[str, Any]]:
    """Field -> (variable, value). Our own prefix wins over the plain names; an empty variable counts as not given."""
    names = {dialect.prefix + field.upper(): field for field in known}
    names |= {dialect.prefix + alias.upper(): alias for alias in dialect.aliases}
    found: dict[str, tuple[str, Any]] = {}
    for variable, name in (names | dict(dialect.plain)).items():
        value = variables.get(variable)
        if value:
            found.setdefault(dialect.aliases.get(name, name), (variable, dialect.convert(name, value)))
    return found
