"""Arguments of `fastserve bench`, with the names and meanings of `vllm bench serve` where it has them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from fastserve.bench.metric_names import GOODPUT, METRICS
from fastserve.cli.seeding import add_seeding
from fastserve.cli.session_arguments import add_sessions
from fastserve.cli.trace_arguments import add_reading

T = TypeVar("T", int, float)
LENGTHS = ("auto", "on", "off")
DATASET_NAMES = ("random", "sharegpt", "custom")
APIS = ("openai", "openai-chat", "native", "nobatch")


class OldName(argparse.Action):
    """--backend, which means the body of an engine everywhere else, is taken for --api until the next release."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(f"fastserve bench: warning: --backend {values} is called --api {values} now", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110)
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url", "--base-url", default="http://127.0.0.1:8000", help="base URL of the server (%(default)s)"
    )
    server.add_argument("--api", choices=APIS, default="openai", help="API of the server (%(default)s)")
    server.add_argument("--backend", dest="api", choices=APIS, action=OldName, help=argparse.SUPPRESS)
    server.add_argument("--endpoint", metavar="PATH", help="path, instead of the default route")
    server.add_argument("--model", metavar="NAME", help="model name (default: the first one that the server lists)")
    server.add_argument("--api-key", metavar="KEY", help="bearer token (default: OPENAI_API_KEY, if set)")
    server.add_argument("--header", nargs="+", action="extend", type=pair, default=[], metavar="NAME=VALUE")
    server.add_argument(
        "--timeout", type=seconds, default=3600.0, metavar="S", help="timeout of a request (%(default)g)"
    )
    server.add_argument(
        "--ready-check-timeout-sec",
        type=float,
        default=0.0,
        metavar="S",
        help="wait this long until the server is reachable",
    )
    what = parser.add_argument_group("requests")
    what.add_argument("--trace", metavar="FILE", help="trace to replay; the format is detected")
    add_seeding(what)
    what.add_argument("--dataset-name", choices=DATASET_NAMES, help="dataset, without --trace (random)")
    what.add_argument("--dataset-path", metavar="FILE", help="file of sharegpt or custom")
    what.add_argument(
        "--num-prompts",
        "--num-requests",
        type=count,
        metavar="N",
        help="number of requests (all of a trace, else 1000)",
    )
    what.add_argument(
        "--from", dest="start", type=float, default=0.0, metavar="S", help="replay the trace from this second"
    )
    what.add_argument("--for", dest="duration", type=float, metavar="S", help="replay this many seconds of the trace")
    add_reading(what)
    what.add_argument(
        "--input-len",
        "--random-input-len",
        type=count,
        default=1024,
        metavar="N",
        help="prompt tokens of random (%(default)s)",
    )
    what.add_argument(
        "--output-len", "--random-output-len", "--sharegpt-output-len", "--custom-output-len", type=int, metavar="N",
        help="output tokens; random: 128; sharegpt: as recorded; custom: 256, -1: output_tokens of each line",
    )  # fmt: skip
    what.add_argument(
        "--random-range-ratio", type=float, default=0.0, metavar="X", help="lengths within 1 - X to 1 + X (%(default)s)"
    )
    what.add_argument(
        "--prompts",
        choices=("auto", "ids", "text"),
        default="auto",
        help="prompts as token ids or text; auto: ids, except for chat",
    )
    what.add_argument("--token-ids", type=id_range, metavar="LOW-HIGH", help="range of the token ids of prompts")
    what.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer that counts tokens (default: the server's /tokenize)"
    )
    what.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of prompts and requests; 0 leaves a trace as it is (%(default)s)",
    )
    answers = parser.add_argument_group("outputs")
    answers.add_argument(
        "--ignore-eos", action=argparse.BooleanOptionalAction, help="exact output lengths (on for traces and random)"
    )
    answers.add_argument(
        "--hide-lengths", choices=LENGTHS, default="auto",
        help="end outputs by stop_after, with one max_tokens for all, so that a scheduler cannot see the lengths; "
        "auto: if the server is our own (%(default)s)",
    )  # fmt: skip
    answers.add_argument(
        "--predictor",
        default="none",
        metavar="NAME",
        help="send predicted lengths: oracle, lognormal:S, constant:N, trace (its column guess), module:Class",
    )
    answers.add_argument(
        "--vllm-xargs",
        action="store_true",
        help="the server is `fastserve vllm`: guess, client, program, priority and deadline go as vllm_xargs",
    )
    answers.add_argument("--temperature", type=float, default=0.0, metavar="X", help="(%(default)g)")
    answers.add_argument(
        "--extra-body", type=json_object, default={}, metavar="JSON", help="additional fields of each request"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--request-rate",
        "--rate",
        type=rate,
        metavar="R",
        help="requests/s, or inf; the gaps of a trace are scaled to it",
    )
    load.add_argument(
        "--burstiness", type=float, default=1.0, metavar="B", help="shape of Gamma gaps; 1: Poisson (%(default)g)"
    )
    load.add_argument(
        "--max-concurrency", type=count, metavar="C", help="maximum requests in flight; a closed loop at rate inf"
    )
    load.add_argument(
        "--num-warmups", type=int, default=0, metavar="N", help="send the first N requests before, unmeasured"
    )
    add_sessions(parser.add_argument_group("programs: requests of a trace that wait for the answers to others"))
    out = parser.add_argument_group("result")
    out.add_argument("--goodput", nargs="+", type=objective, default=[], metavar="NAME:MS", help=", ".join(GOODPUT))
    out.add_argument("--slo", metavar="TEXT", help="the same limits, as ttft=1s,tpot=0.1s,e2e=30s")
    out.add_argument(
        "--percentile-metrics", type=metrics, default=("ttft", "tpot", "itl", "e2el"), metavar="NAMES",
        help=f"comma-separated, of {', '.join(METRICS)}",
    )  # fmt: skip
    out.add_argument("--metric-percentiles", type=percentiles, default=(99.0,), metavar="P,P", help="(99)")
    out.add_argument("--save-result", action="store_true", help="write the JSON document, and the records beside it")
    out.add_argument("--save-detailed", action="store_true", help="add per-request lists, outputs included")
    out.add_argument("--result-dir", default=".", metavar="DIR", help="(%(default)s)")
    out.add_argument("--result-filename", metavar="NAME", help="file name (default: from label, rate, model and time)")
    out.add_argument("--label", metavar="TEXT", help="name of the run")
    out.add_argument("--metadata", nargs="+", action="extend", type=pair, default=[], metavar="KEY=VALUE")
    out.add_argument("--json", action="store_true", help="print the document and nothing else on stdout")


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as NAME=VALUE")
    return name, value


def objective(text: str) -> tuple[str, float]:
    name, _, ms = text.partition(":")
    if name not in GOODPUT:
        raise argparse.ArgumentTypeError(f"{text!r}: objectives are {', '.join(GOODPUT)}, each as NAME:MS")
    return name, _number(float, ms, text, 0.0)


def count(text: str) -> int:
    return _number(int, text, text, 1)


def seconds(text: str) -> float:
    value = _number(float, text, text, 0.0)
    if value == 0:
        raise argparse.ArgumentTypeError("a timeout of 0 s is not possible")
    return value


def rate(text: str) -> float:
    value = _number(float, text, text, 0.0)
    if value == 0:
        raise argparse.ArgumentTypeError("a rate of 0 sends nothing")
    return value


def id_range(text: str) -> tuple[int, int]:
    """(low, high), high itself excluded."""
    low, dash, high = text.partition("-")
    if not dash:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as LOW-HIGH")
    bounds = _number(int, low, text, 0), _number(int, high, text, 0) + 1
    if bounds[0] >= bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: the range is empty")
    return bounds


def metrics(text: str) -> tuple[str, ...]:
    names = tuple([name.strip() for name in text.split(",") if name.strip()])
    wrong = [name for name in names if name not in METRICS]
    if wrong:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(METRICS)}")
    return names


def percentiles(text: str) -> tuple[float, ...]:
    values = tuple([_number(float, part, text, 0.0) for part in text.split(",")])
    if max(values) > 100:
        raise argparse.ArgumentTypeError(f"{text!r}: percentiles go from 0 to 100")
    return values


def json_object(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def _number(kind: Callable[[str], T], part: str, whole: str, least: T) -> T:
    try:
        value = kind(part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{whole!r} is not a number") from None
    if math.isnan(value) or value < least:
        raise argparse.ArgumentTypeError(f"{whole!r}: give at least {least:g}")
    return value
