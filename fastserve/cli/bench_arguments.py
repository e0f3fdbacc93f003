"""The flags of `fastserve bench`; names and meanings of `vllm bench serve` where it has them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from fastserve.bench.metric_names import GOODPUT, METRICS

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
    server.add_argument("--url", "--base-url", default="http://127.0.0.1:8000", help="where it is (%(default)s)")
    server.add_argument("--api", choices=APIS, default="openai", help="how it is spoken to (%(default)s)")
    server.add_argument("--backend", dest="api", choices=APIS, action=OldName, help=argparse.SUPPRESS)
    server.add_argument("--endpoint", metavar="PATH", help="instead of the API's own route")
    server.add_argument("--model", metavar="NAME", help="the first one that the server lists, by default")
    server.add_argument("--api-key", metavar="KEY", help="bearer token; by default OPENAI_API_KEY, where it is set")
    server.add_argument("--header", nargs="+", action="extend", type=pair, default=[], metavar="NAME=VALUE")
    server.add_argument("--timeout", type=seconds, default=3600.0, metavar="S", help="per request (%(default)g)")
    server.add_argument(
        "--ready-check-timeout-sec", type=float, default=0.0, metavar="S", help="wait so long for a server that starts"
    )
    what = parser.add_argument_group("requests")
    what.add_argument("--trace", metavar="FILE", help="replay this trace; recognised by its content")
    what.add_argument("--dataset-name", choices=DATASET_NAMES, help="without --trace (random)")
    what.add_argument("--dataset-path", metavar="FILE", help="of sharegpt and custom")
    what.add_argument("--num-prompts", "--num-requests", type=count, metavar="N", help="all of a trace, else 1000")
    what.add_argument("--from", dest="start", type=float, default=0.0, metavar="S", help="of a trace: from this second")
    what.add_argument("--for", dest="duration", type=float, metavar="S", help="of a trace: for so many seconds")
    what.add_argument("--columns", metavar="SPEC", help="of an unknown trace: arrival=ts:ms,prompt=a,output=b")
    what.add_argument("--lenient", action="store_true", help="drop and count bad rows of a trace")
    what.add_argument(
        "--input-len", "--random-input-len", type=count, default=1024, metavar="N", help="of random (%(default)s)"
    )
    what.add_argument(
        "--output-len", "--random-output-len", "--sharegpt-output-len", "--custom-output-len", type=int, metavar="N",
        help="random: 128; sharegpt: the answers' own; custom: 256, and -1 takes output_tokens of each line",
    )  # fmt: skip
    what.add_argument(
        "--random-range-ratio", type=float, default=0.0, metavar="X", help="lengths within 1 - X to 1 + X (%(default)s)"
    )
    what.add_argument("--prompts", choices=("auto", "ids", "text"), default="auto", help="ids, except for chat")
    what.add_argument("--token-ids", type=id_range, metavar="LOW-HIGH", help="which ids prompts are made of")
    what.add_argument("--tokenizer", metavar="PATH", help="counts tokens of texts; else the server's /tokenize does")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="0 is a trace as it stands (%(default)s)")
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--ignore-eos", action=argparse.BooleanOptionalAction, help="exact lengths (on for traces and random)"
    )
    answers.add_argument(
        "--hide-lengths", choices=LENGTHS, default="auto",
        help="end exact answers by stop_after, with one max_tokens for all: a scheduler cannot read the lengths; "
        "auto: if the server is our own (%(default)s)",
    )  # fmt: skip
    answers.add_argument(
        "--predictor", default="none", metavar="NAME", help="send a guess: oracle, lognormal:S, constant:N"
    )
    answers.add_argument("--temperature", type=float, default=0.0, metavar="X", help="(%(default)g)")
    answers.add_argument(
        "--extra-body", type=json_object, default={}, metavar="JSON", help="more fields of each request"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--request-rate",
        "--rate",
        type=rate,
        metavar="R",
        help="requests/s, or inf; a trace's gaps are stretched to it",
    )
    load.add_argument(
        "--burstiness", type=float, default=1.0, metavar="B", help="shape of Gamma gaps; 1: Poisson (%(default)g)"
    )
    load.add_argument(
        "--max-concurrency", type=count, metavar="C", help="at most so many at a time; closed loop at rate inf"
    )
    load.add_argument("--num-warmups", type=int, default=0, metavar="N", help="send the first N before, unmeasured")
    out = parser.add_argument_group("result")
    out.add_argument("--goodput", nargs="+", type=objective, default=[], metavar="NAME:MS", help=", ".join(GOODPUT))
    out.add_argument(
        "--percentile-metrics", type=metrics, default=("ttft", "tpot", "itl", "e2el"), metavar="NAMES",
        help=f"comma-separated, of {', '.join(METRICS)}",
    )  # fmt: skip
    out.add_argument("--metric-percentiles", type=percentiles, default=(99.0,), metavar="P,P", help="(99)")
    out.add_argument("--save-result", action="store_true", help="write the JSON document, and the records beside it")
    out.add_argument(
        "--save-detailed", action="store_true", help="with a list of every request's figures and texts in it"
    )
    out.add_argument("--result-dir", default=".", metavar="DIR", help="(%(default)s)")
    out.add_argument("--result-filename", metavar="NAME", help="by default label, rate, model and time")
    out.add_argument("--label", metavar="TEXT", help="names the run (the backend)")
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
        raise argparse.ArgumentTypeError("0 s leave no time for an answer")
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
        raise argparse.ArgumentTypeError(f"{text!r}: there are none")
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
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _number(kind: Callable[[str], T], part: str, whole: str, least: T) -> T:
    try:
        value = kind(part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{whole!r} is no number") from None
    if math.isnan(value) or value < least:
        raise argparse.ArgumentTypeError(f"{whole!r}: give at least {least:g}")
    return value
