"""Arguments shared by commands: policies, scheduler settings, model and backend.

The flags of settings come from the settings' own dataclass: name, default, type, valid values and help.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from fastserve.backends import BACKENDS, checked
from fastserve.backends.loading import loading as loaded
from fastserve.backends.options import DEFAULTS, OLLAMA_MODEL, OPTIONS, USE_OLLAMA, Option, expanded
from fastserve.backends.options import OTHER_NAMES as BACKEND_NAMES
from fastserve.named_models import EMBEDDED, NAMES, at_hand
from fastserve.policies import POLICIES
from fastserve.policies.spec import PolicySpec
from fastserve.routers import ROUTERS
from fastserve.sched.config import OTHER_NAMES, SchedulerConfig, choices, describe
from fastserve.sched.keywords import argument

if TYPE_CHECKING:
    from fastserve.engine import Engine
    from fastserve.launch import Body

BACKEND_VARIABLE = "FASTSERVE_BACKEND"
BACKEND_HELP = (
    f"{', '.join(BACKENDS)}, or your own as module:Class or ./file.py:Class (default: {BACKEND_VARIABLE}, else torch)"
)
MODEL_HELP = f"{', '.join(NAMES)}, a folder, a .gguf file (of the hub: REPO:FILE), or a Hugging Face id"
MODEL_FLAGS = tuple(OPTIONS)
"""Options of backends: every command with an engine has them as flags."""
SCHEDULER_FLAGS = tuple(field.name for field in fields(SchedulerConfig))
ENGINE_FLAGS = (*SCHEDULER_FLAGS, "kv_tokens", "host_tokens")
"""Fields of EngineConfig that every command with an engine has as flags."""

POLICY_HELP = f"{', '.join(POLICIES)}, or your own as module:Class or ./file.py:Class"
ROUTER_HELP = f"{', '.join(ROUTERS)}, or your own as module:Class or ./file.py:Class"
SLO_HELP = "objectives of requests that bring none of their own: ttft=1s,tpot=0.1s,e2e=30s"
SET_HELP = "a keyword of that policy's constructor; may be repeated"


def flags(name: str, others: Mapping[str, str] = OTHER_NAMES) -> list[str]:
    """The flag of a setting, and those of its aliases."""
    names = [name, *(other for other, setting in others.items() if setting == name)]
    return [f"--{each.replace('_', '-')}" for each in names]


def add_settings(
    parser: argparse._ActionsContainer,
    kind: Any,
    names: Iterable[str] | None = None,
    others: Mapping[str, str] = OTHER_NAMES,
) -> None:
    """A flag for each field of a dataclass of settings, or for those of `names`. others: other name -> setting."""
    texts = describe(kind)
    wanted = None if names is None else set(names)
    for field in fields(kind):
        if wanted is not None and field.name not in wanted:
            continue
        text = texts[field.name].replace("%", "%%")
        if field.default is not None and "default" not in text:
            text += " (default: %(default)s)"
        options: dict[str, Any] = {"dest": field.name, "default": field.default, "help": text}
        written = str(field.type)
        if written.startswith("bool"):
            options["action"] = argparse.BooleanOptionalAction
        elif choices(field.name):
            options["choices"] = choices(field.name)
        elif written.startswith("int | str"):
            options |= {"type": _count_or_word, "metavar": "N|unlimited"}
        else:
            options["type"] = int if written.startswith("int") else float if written.startswith("float") else str
            options["metavar"] = {int: "N", float: "X"}.get(options["type"], "TEXT")
        parser.add_argument(*flags(field.name, others), **options)


def _count_or_word(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


# -- policies ----------------------------------------------------------------------------------------------------------


class RowAction(argparse.Action):
    """A flag with a `const` starts a row of the comparison, const(value); --set and --label belong to the row before
    them. The rows, in a list under `dest`, are PolicySpecs or what another const makes.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        rows = list(getattr(namespace, self.dest, None) or [])
        try:
            if self.const is not None:
                rows.append(self.const(values))
            elif not rows:
                raise ValueError("it belongs to the --policy before it, and there is none")
            elif option_string == "--label":
                rows[-1] = replace(rows[-1], label=values)
            elif not isinstance(rows[-1], PolicySpec):
                raise ValueError(f"{rows[-1].title} is a running server, whose settings cannot be changed")
            else:
                rows[-1] = rows[-1].with_argument(values)
        except ValueError as error:
            parser.error(f"{option_string} {values}: {error}")
        setattr(namespace, self.dest, rows)


def add_rows(parser: argparse._ActionsContainer, url: Callable[[str], Any] | None = None) -> None:
    """--policy, --set and --label, each repeatable; args.policies is a list of PolicySpecs or None.

    url: what a --url starts, for a command that compares servers too.
    """
    rows: dict[str, Any] = {"action": RowAction, "dest": "policies"}
    add = parser.add_argument
    add("--policy", metavar="NAME", const=PolicySpec, default=None, help=f"a row: {POLICY_HELP}", **rows)
    if url is not None:
        add("--url", metavar="URL", const=url, default=None, help="a row: a running server", **rows)
    add("--set", metavar="KEY=VALUE", default=argparse.SUPPRESS, help=SET_HELP, **rows)
    add("--label", metavar="TEXT", default=argparse.SUPPRESS, help="the name of that row", **rows)


def add_policy(parser: argparse._ActionsContainer, *, positional: bool = False, default: str | None = None) -> None:
    """One policy, which may be left out if positional, and its --set, in any order; policy_of() reads them."""
    if positional:
        parser.add_argument("policy", nargs="?", help=POLICY_HELP)
    else:
        parser.add_argument("--policy", metavar="NAME", default=default, help=f"{POLICY_HELP} (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)


def policy_of(args: argparse.Namespace) -> PolicySpec:
    """Raises ValueError for a --set that cannot be read."""
    return PolicySpec(args.policy, dict(map(argument, args.set)))


# -- sampling ----------------------------------------------------------------------------------------------------------

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "ignore_eos")
"""Flags of a request, beside --sampling-seed; SamplingParams and OpenAI's bodies have them by these names."""


def add_sampling_arguments(parser: argparse._ActionsContainer, *, max_tokens: int) -> None:
    """--sampling-seed and a flag for each name in SAMPLING."""
    add = parser.add_argument
    add("--max-tokens", type=int, default=max_tokens, help="maximum output tokens (default: %(default)s)")
    add("--temperature", type=float, help="0 is greedy (default: the model's own, else 1)")
    add("--top-k", type=int)
    add("--top-p", type=float)
    add("--min-p", type=float)
    add("--repetition-penalty", type=float)
    add("--stop", action="append", default=[], metavar="TEXT", help="stop string; may be repeated")
    add("--sampling-seed", type=int, help="seed of the sampling; the output does not depend on other requests")
    add("--ignore-eos", action="store_true")


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """What SamplingParams takes: of what is given."""
    given = {**{name: getattr(args, name) for name in SAMPLING}, "seed": args.sampling_seed}
    return {name: value for name, value in given.items() if value is not None and value is not False and value != []}


# -- models ------------------------------------------------------------------------------------------------------------


def add_model_arguments(
    parser: argparse._ActionsContainer, also: Iterable[str] = (), default: str | None = EMBEDDED
) -> None:
    """--model, --backend and the names in MODEL_FLAGS.

    also: what else --backend may be for this command. default: None where the model at hand is it.
    """
    add = parser.add_argument
    add_backend(parser, also)
    ollama: dict[str, Any] = {"action": OllamaAction, "default": argparse.SUPPRESS}
    add("--use-ollama", nargs=0, help=USE_OLLAMA, **ollama)
    add("--ollama-model", metavar="NAME", help=OLLAMA_MODEL, **ollama)
    add("--model", default=default, help=f"{MODEL_HELP} (default: {default or at_hand()})")
    for name, option in OPTIONS.items():
        add(flags(name)[0], **_as_flag(name, option))


def _as_flag(name: str, option: Option) -> dict[str, Any]:
    """Keywords of add_argument()."""
    text = option.help.replace("%", "%%")
    if option.default and not option.secret and "default" not in text:
        text += f" (default: {option.default})"
    made: dict[str, Any] = {"dest": name, "default": option.default, "help": text}
    if option.kind is bool:
        return made | {"action": argparse.BooleanOptionalAction}
    if option.kind is tuple:
        return made | {"action": AppendAction, "metavar": option.metavar}
    if option.choices:
        return made | {"choices": option.choices}
    return made | {"type": option.kind, "metavar": {int: "N", float: "X"}.get(option.kind, option.metavar)}


class AppendAction(argparse.Action):
    """Each value goes to the end of a tuple."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


class OllamaAction(argparse.Action):
    """--use-ollama and --ollama-model: sets the flags that they stand for."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for name, value in expanded({"use_ollama": True} | ({self.dest: values} if values else {})).items():
            if name != "upstream" or namespace.upstream is None:
                setattr(namespace, name, value)


def add_backend(parser: argparse._ActionsContainer, also: Iterable[str] = ()) -> None:
    """--backend. also: see add_model_arguments()."""
    more = tuple(also)
    parser.add_argument(
        *flags("backend", BACKEND_NAMES),
        type=lambda text: text if text in more else _backend(text),
        default=_backend_default(),
        metavar="NAME",
        help=", ".join([*more, BACKEND_HELP]),
    )


def body_of(args: argparse.Namespace, latency: str | None = None) -> Body:
    """Loads the model of --model on the backend of --backend, with the options in MODEL_FLAGS."""
    from fastserve.launch import Body

    return Body(args.model, args.backend, latency=latency, **options_of(args))


def add_adapter(parser: argparse._ActionsContainer) -> None:
    """--adapter, for a command whose requests are all of one model."""
    parser.add_argument(
        "--adapter", metavar="NAME",
        help="which --lora NAME=FOLDER answers; none: the model without any (default: the first)",
    )  # fmt: skip


def adapter_of(args: argparse.Namespace, engine: Engine) -> str:
    """The adapter for all requests, "" for none. Raises ValueError for one that is not loaded."""
    if args.adapter is None:
        return next(iter(engine.adapters.loaded), "")
    return "" if args.adapter == "none" else engine.adapters.find(args.adapter).name


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options in MODEL_FLAGS that the backend has or that were given, by name."""
    of = {name for name, option in OPTIONS.items() if args.backend in option.backends or args.backend not in BACKENDS}
    return {name: value for name in MODEL_FLAGS if (value := getattr(args, name)) != DEFAULTS[name] or name in of}


def loading(args: argparse.Namespace, policies: str = "") -> str:
    """What takes the first seconds, for people. policies: what it is loaded for, where that is not args.policy."""
    return loaded(args.model, args.backend, policies or args.policy, args.device, measures=not args.latency)


def _backend(text: str) -> str:
    try:
        return checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _backend_default() -> str:
    return os.environ.get(BACKEND_VARIABLE) or "torch"


def add_observer_arguments(parser: argparse._ActionsContainer) -> None:
    """timeline, iterations and observer, as fastserve.observers.named.chosen() takes them."""
    add = parser.add_argument
    add("--timeline", metavar="FILE", help="a Chrome trace of the run, for ui.perfetto.dev, written as it goes on")
    add("--iterations", metavar="FILE", help="a row per iteration (CSV), written as the run goes on")
    add(
        "--observer",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="your own, or ./file.py:Class; may be repeated",
    )
