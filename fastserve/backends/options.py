"""Options of backends: each once, with its default, its valid values, its help, and the backends that have it.

Flags of commands, settings of the server (YAML, environment), Engine.from_pretrained(), launch.DEFAULTS and the table
in docs/backends.md are made of OPTIONS. A backend takes its options as keyword-only parameters of its class or of its
load(), with the same defaults; what is at its default is not passed on, so that it never disagrees with a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastserve.sched.checks import at_least, one_of, renamed, unknown
from fastserve.speculation.spec import parse


@dataclass(frozen=True, slots=True)
class Option:
    """backends: names in the table of backends. kind: of its value: str, int, bool, float (a share, above 0 and at most
    1), or tuple (texts, given one by one). choices: valid values, all of them; none: the backend checks. least, most:
    of an int. parse: raises ValueError for what is no value. secret: masked where settings are shown, never stored.
    metavar: its value in help.
    """

    help: str
    backends: tuple[str, ...]
    default: Any = None
    kind: type = str
    choices: tuple[str, ...] = ()
    least: int = 1
    most: int = 4096
    parse: Callable[[str], object] | None = None
    secret: bool = False
    metavar: str = "TEXT"


TOKENS = (1 << 31) - 1
MODELS = ("torch", "llamacpp", "onnx")
"""Backends that run a model in this process."""

OPTIONS: dict[str, Option] = {
    "device": Option("where the model runs: auto, cpu, cuda, cuda:1 or mps", ("torch",), "auto"),
    "dtype": Option(
        "auto, float32, bfloat16 or float16; of llamacpp the KV cache's, the file has the weights'",
        ("torch", "llamacpp"), "auto",
    ),
    "threads": Option("CPU threads of the model", MODELS, None, int),
    "load_format": Option(
        "dummy: the model's shape with seeded random weights", ("torch",), "auto", choices=("auto", "dummy")
    ),
    "max_model_len": Option(
        "longest context in tokens; above the model's own it is cut with a warning", (*MODELS, "upstream", "scripted"),
        None, int, most=TOKENS,
    ),
    "trust_remote_code": Option("run model code that comes with the weights", ("torch", "onnx"), False, bool),
    "native": Option("off: pure PyTorch without the compiled kernels", ("torch",), "auto", choices=("auto", "off")),
    "weights": Option(
        "of a float32 model on a CPU: half stores them in 2 bytes, exact only where that changes none, auto is half "
        "where dtype is auto too", ("torch",), "auto", choices=("auto", "exact", "half"),
    ),
    "gpu_memory_utilization": Option(
        "share of the device's memory that weights and KV may take", ("torch",), 0.9, float
    ),
    "speculate": Option(
        "guess tokens and verify them: ngram:K, draft:MODEL:K, or off", ("torch", "llamacpp"), "off", parse=parse,
        metavar="HOW",
    ),
    "quantize": Option(
        "weights of 8 bits, or of 4, which is crude", ("onnx",), "none", choices=("none", "int8", "int4")
    ),
    "providers": Option("ONNX Runtime's execution providers, with commas, or auto", ("onnx",), "auto", metavar="NAMES"),
    "spinning": Option(
        "how long ONNX Runtime's threads wait awake for work", ("onnx",), "brief", choices=("brief", "on", "off")
    ),
    "graph_optimization": Option(
        "how far ONNX Runtime rewrites the graph", ("onnx",), "all", choices=("all", "extended", "basic", "off")
    ),
    "gpu_layers": Option("layers that llama.cpp runs on the GPU", ("llamacpp",), 0, int, least=0),
    "lora": Option(
        "a LoRA adapter; may be repeated: of torch NAME=FOLDER, for requests that ask for model NAME; of llamacpp "
        "FILE[:SCALE], for all requests", ("torch", "llamacpp"), (), tuple, metavar="NAME=FOLDER|FILE[:SCALE]",
    ),
    "max_loras": Option("adapters that may be loaded at once", ("torch",), 8, int, most=1024),
    "max_lora_rank": Option("largest rank of an adapter", ("torch",), 64, int, most=1024),
    "upstream": Option("the server in front of which to stand: http://HOST:PORT", ("upstream",), None, metavar="URL"),
    "upstream_api": Option(
        "what it speaks: OpenAI's API or Ollama's own", ("upstream",), "auto", choices=("auto", "openai", "ollama")
    ),
    "upstream_key": Option(
        "bearer token for it; better as FASTSERVE_UPSTREAM_KEY in the environment, which ps does not show",
        ("upstream",), None, secret=True,
    ),
    "upstream_slots": Option("requests that it serves at once (by default it is asked)", ("upstream",), None, int),
    "upstream_wait": Option(
        "seconds that it may be gone, at the start and later, before a request fails", ("upstream",), 60, int, least=0,
        most=86_400,
    ),
    "upstream_silence": Option(
        "seconds for which it may say nothing to a request", ("upstream",), 600, int, most=86_400
    ),
    "tokenizer": Option(
        "the model's own: a folder, a .gguf file or a name in the hub's cache (by default tokens are estimated)",
        ("upstream",), None,
    ),
}  # fmt: skip

DEFAULTS: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}

SECRETS = tuple(name for name, option in OPTIONS.items() if option.secret)

OTHER_NAMES: dict[str, str] = {"backend_type": "backend"}
"""Other name -> the setting beside the options."""

OLLAMA = "http://127.0.0.1:11434"
USE_OLLAMA = "a short form of --backend upstream with Ollama on this machine"
OLLAMA_MODEL = "the same, with this model"


def expanded(given: Mapping[str, Any]) -> dict[str, Any]:
    """What use_ollama and ollama_model stand for, and other names by their settings. given: nothing that was left at
    its default. ValueError where they disagree with the rest.
    """
    found = renamed(given, OTHER_NAMES)
    model = found.pop("ollama_model", None)
    if not found.pop("use_ollama", model is not None):
        return found
    means = {"backend": "upstream", "upstream_api": "ollama"} | ({} if model is None else {"model": model})
    for name, value in means.items():
        if found.get(name, value) not in (value, DEFAULTS.get(name, value)):
            raise ValueError(f"use_ollama means {name}={value!r}, and {name} is {found[name]!r}: leave one of them out")
    return {"upstream": OLLAMA} | found | means


def check(name: str, value: Any) -> None:
    """Raises ValueError, naming the option and what it may be, for a value that it cannot have."""
    option = OPTIONS[name]
    if value == option.default:
        return
    if option.parse is not None:
        option.parse(value)
    elif option.choices:
        one_of(name, value, option.choices)
    elif option.kind is int:
        at_least(name, value, option.least, option.most)
    elif option.kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    elif option.kind is float and (isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value <= 1)):
        raise ValueError(f"{name}={value!r} must be above 0 and at most 1")
    elif option.kind is tuple and not (
        isinstance(value, str | list | tuple) and all(isinstance(it, str) for it in value)
    ):
        raise ValueError(f"{name}={value!r} must be a text, or a list of some")
    elif option.kind is str and (value is None or isinstance(value, int | float | bytes | list | tuple | dict | set)):
        shown = "" if option.secret else f"={value!r}"
        raise ValueError(f"{name}{shown} must be a text")


def check_all(given: Mapping[str, Any]) -> None:
    """check() for each that is an option of OPTIONS."""
    for name, value in given.items():
        if name in OPTIONS:
            check(name, value)


def passed_on(backend: str, given: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """The options to make a backend with: those at their defaults are left out, and a secret that it has no use for.

    own: names of all that it has. ValueError for an option that it does not have. Values: see check_all().
    """
    found = {name: value for name, value in given.items() if name not in DEFAULTS or value != DEFAULTS[name]}
    found = {name: value for name, value in found.items() if name in own or name not in SECRETS}
    for name in found:
        if name not in own:
            of = OPTIONS[name].backends if name in OPTIONS else ()
            raise ValueError(unknown(f"backend {backend} has no setting", name, own, of=of))
    return found


def table() -> str:
    """OPTIONS as Markdown, a line each, for docs/backends.md."""
    rows = ["| option | default | of | what |", "|---|---|---|---|"]
    for name, option in OPTIONS.items():
        usual = "" if option.default in (None, (), False) else option.default
        valid = f" ({', '.join(option.choices)})" if option.choices else ""
        rows.append(f"| `{name}` | {usual} | {', '.join(option.backends)} | {option.help}{valid} |")
    return "\n".join(rows)
