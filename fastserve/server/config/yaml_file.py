"""Settings file: YAML, with or without the `serving:` tree of other servers, read into {field: (key, value)}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fastserve.sched.checks import nearest
from fastserve.server.config.aliases import ALIASES, converted

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
    "auth.auth_type": ("bearer_token", "the only kind of authentication is bearer_token"),
    "pytorch.compile_model": (False, "compiling the model with torch.compile does not exist here yet; set it to false"),
}
"""Key -> its only valid value, and the reason."""

IDLE = {"batching.batch_timeout_ms": "continuous batching does not wait to fill a batch"}
"""Keys of other servers that are accepted without effect, and the reason."""


NEEDS: dict[str, tuple[str, ...]] = {
    "auth.enabled": ("api_key", "api_key_file", "token_validation_url"),
    "rate_limiting.enabled": ("requests_per_minute", "tokens_per_minute", "burst_allowance"),
}
"""Switch -> settings of which it needs at least one to have an effect."""


class Sheet(NamedTuple):
    """Content of a settings file."""

    values: dict[str, tuple[str, Any]]  # field -> (key, value)
    on: tuple[str, ...]  # switches that are on
    idle: tuple[str, ...]  # keys without effect


def read(path: Path, known: Iterable[str]) -> Sheet:
    """Raises ValueError with the file name."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config file {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {path} is not UTF-8 text: {error}") from error
    if tree is None:
        tree = {}
    if isinstance(tree, dict) and "serving" in tree:
        if len(tree) > 1:
            other = next(str(key) for key in tree if key != "serving")
            raise ValueError(f"config file {path}: {other!r} stands beside `serving:`; move it inside")
        tree = tree["serving"] or {}
    if not isinstance(tree, dict):
        raise ValueError(f"config file {path} must hold keys and values, not {type(tree).__name__}")
    leaves = dict(_leaves(tree, "", _keys(known)))
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
            if field not in known:
                raise ValueError(f"config file {path}: there is no key {key!r}{nearest(key, _keys(known))}")
            found[field] = (key, converted(key, value))
    on = tuple(switch for switch in SWITCHES if leaves.get(switch) is True)
    return Sheet(found, on, tuple(key for key in IDLE if key in leaves))


def _leaves(tree: Mapping[Any, Any], above: str, keys: list[str]) -> Iterable[tuple[str, Any]]:
    """(dotted key, value); a mapping is gone into where the tree has a group of that name."""
    groups = {key[: at + 1] for key in keys for at, letter in enumerate(key) if letter == "."}
    for key, value in tree.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and f"{path}." in groups:
            yield from _leaves(value, f"{path}.", keys)
        else:
            yield path, value


def _keys(known: Iterable[str]) -> list[str]:
    return [*TREE, *SWITCHES, *FIXED, *IDLE, *known, *ALIASES]
