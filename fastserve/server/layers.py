"""Where settings come from: environment, .env and YAML, each read into {field: value}; and other names of a field."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

ALIASES: dict[str, str] = {
    "model_name": "model",
    "max_length": "max_model_len",
    "max_batch_size": "max_batch",
    "batch_size": "max_batch",
    "max_num_seqs": "max_batch",
    "num_priority_queues": "num_queues",
    "api_keys": "api_key",
    "torch_dtype": "dtype",
    "cache_size": "kv_cache_gib",
}
"""Other name -> field; on the command line, in the environment, in files and in Python alike."""

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
TREE: dict[str, str] = {
    "pytorch.device": "device",
    "pytorch.torch_dtype": "dtype",
    "batching.max_batch_size": "max_batch",
    "auth.tokens": "api_key",
    "auth.token_validation_url": "token_validation_url",
    "auth.required_scopes": "required_scopes",
    "rate_limiting.requests_per_minute": "requests_per_minute",
    "rate_limiting.tokens_per_minute": "tokens_per_minute",
    "rate_limiting.burst_allowance": "burst_allowance",
    "validation.max_prompt_length": "max_prompt_length",
    "validation.max_tokens": "max_tokens",
    "monitoring.metrics_endpoint": "metrics_endpoint",
    "monitoring.alert_thresholds.error_rate": "alert_error_rate",
    "monitoring.alert_thresholds.latency_p99": "alert_latency_p99",
    "monitoring.alert_thresholds.gpu_memory_usage": "alert_gpu_memory_usage",
}
"""Key of the `serving:` tree -> field. Fields themselves may stand at the top of the tree."""

SWITCHES = ("auth.enabled", "rate_limiting.enabled", "monitoring.enabled")
FIXED: dict[str, tuple[Any, str]] = {
    "backend_type": ("pytorch", "the only backend is pytorch"),
    "auth.auth_type": ("bearer_token", "the only kind of authentication is bearer_token"),
    "pytorch.compile_model": (False, "compiling the model with torch.compile does not exist here yet; set it to false"),
}
"""Key -> the one value that it may have, and why."""

IDLE = {"batching.batch_timeout_ms": "a continuous batch never waits for company"}
"""Keys of other servers that are taken and change nothing, and why."""


class Source(PydanticBaseSettingsSource):
    """One layer for pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], read: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        super().__init__(settings_cls)
        self.read = read

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.read(self.current_state)


def environment(_: Mapping[str, Any]) -> dict[str, Any]:
    """What the process environment says."""
    return {field: value for field, (_, value) in _variables(os.environ).items()}


def dotenv(_: Mapping[str, Any]) -> dict[str, Any]:
    """What .env in the current folder says."""
    return {field: value for field, (_, value) in _variables(dotenv_values(".env")).items()}


def file(above: Mapping[str, Any]) -> dict[str, Any]:
    """What the YAML file says that the layers above name. Raises ValueError."""
    path = above.get("config")
    return {field: value for field, (_, value) in _yaml(Path(path)).items()} if path else {}


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field, whatever accepted name they were given under. Raises ValueError for a name nobody knows."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        field = ALIASES.get(name, name)
        if field not in _fields():
            raise ValueError(f"there is no setting {name!r}{nearest(name, [*_fields(), *ALIASES])}")
        if field in found:
            raise ValueError(f"{field} is given twice, the second time as {name}")
        found[field] = _converted(name, value)
    return found


def origins(given: Mapping[str, Any]) -> dict[str, str]:
    """Field -> the layer that decides it, in words; fields left at their defaults are absent."""
    found = dict.fromkeys(given, "argument")
    for where, variables in (("environment", os.environ), (".env", dotenv_values(".env"))):
        for field, (name, value) in _variables(variables).items():
            found.setdefault(field, f"{where} {name}")
            if field == "config" and "config" not in given:
                given = {**given, "config": value}
    if given.get("config"):
        for field, (key, _) in _yaml(Path(given["config"])).items():
            found.setdefault(field, f"{given['config']} {key}")
    return found


def strays() -> list[str]:
    """Warnings about environment variables that look like misspelt settings."""
    known = {PREFIX + name.upper() for name in (*_fields(), *ALIASES)}
    found = []
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
            if near:
                found.append(f"environment variable {name} is not known; did you mean {near[0]}?")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean x?' or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


# -- forms of values ---------------------------------------------------------------------------------------------------


def words(value: Any) -> Any:
    """A list, also written as text with commas."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def pairs(value: Any) -> Any:
    """A mapping, also written as KEY=VALUE: one, a list of them, or with commas. Values: numbers, booleans or text."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        return value
    found = {}
    for text in value:
        key, equals, literal = str(text).partition("=")
        if not equals or not key.strip():
            raise ValueError(f"write it as KEY=VALUE, not {text!r}")
        found[key.strip().replace("-", "_")] = _literal(literal.strip())
    return found


def plain(value: Any) -> str:
    """A value as it is shown to people; secrets are masked."""
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return "none" if value is None else str(value)


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _converted(name: str, value: Any) -> Any:
    """--cache-size is in MiB."""
    if name != "cache_size" or value is None:
        return value
    try:
        return float(value) / 1024
    except (TypeError, ValueError):
        raise ValueError(f"cache_size={value!r} is not a number of MiB") from None


# -- the outer forms ---------------------------------------------------------------------------------------------------


def _fields() -> Iterable[str]:
    from fastserve.config import FastServeConfig

    return FastServeConfig.model_fields


def _variables(variables: Mapping[str, str | None]) -> dict[str, tuple[str, Any]]:
    """Field -> (variable, value). Our own prefix wins over the plain names; an empty variable counts as not given."""
    names = {PREFIX + field.upper(): field for field in _fields()}
    names |= {PREFIX + alias.upper(): alias for alias in ALIASES}
    found: dict[str, tuple[str, Any]] = {}
    for variable, name in (names | PLAIN).items():
        value = variables.get(variable)
        if value:
            found.setdefault(ALIASES.get(name, name), (variable, _converted(name, value)))
    return found


def _yaml(path: Path) -> dict[str, tuple[str, Any]]:
    """Field -> (key, value) of a settings file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config file {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if isinstance(tree, dict) and "serving" in tree:
        if len(tree) > 1:
            other = next(str(key) for key in tree if key != "serving")
            raise ValueError(f"config file {path}: {other!r} stands beside `serving:`; move it inside")
        tree = tree["serving"] or {}
    if not isinstance(tree, dict):
        raise ValueError(f"config file {path} must hold keys and values, not {type(tree).__name__}")
    leaves = dict(_leaves(tree, ""))
    off = tuple(switch.removesuffix("enabled") for switch in SWITCHES if leaves.get(switch) is False)
    found: dict[str, tuple[str, Any]] = {}
    for key, value in leaves.items():
        if key in FIXED:
            only, why = FIXED[key]
            if value != only:
                raise ValueError(f"config file {path}: {key}={value}: {why}")
        elif key in SWITCHES:
            if not isinstance(value, bool):
                raise ValueError(f"config file {path}: {key}={value!r} must be true or false")
            if key == "monitoring.enabled":
                found["metrics"] = (key, value)
        elif key not in IDLE and not key.startswith(off):
            field = TREE.get(key) or ALIASES.get(key, key)
            if field not in _fields():
                raise ValueError(f"config file {path}: there is no key {key!r}{nearest(key, _keys())}")
            found[field] = (key, _converted(key, value))
    return found


def _leaves(tree: Mapping[Any, Any], above: str) -> Iterable[tuple[str, Any]]:
    """(dotted key, value); a mapping is gone into where the tree has a group of that name."""
    groups = {key[: at + 1] for key in _keys() for at, letter in enumerate(key) if letter == "."}
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and f"{path}." in groups:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _keys() -> list[str]:
    return [*TREE, *SWITCHES, *FIXED, *IDLE, *_fields(), *ALIASES]
