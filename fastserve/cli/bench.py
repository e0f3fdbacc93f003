"""`fastserve bench`: a client for any OpenAI-compatible server, and for the native routes of our own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastserve.cli.bench_arguments import add_arguments
from fastserve.cli.bench_sessions import Workload, warnings_of, workload_of
from fastserve.cli.seeding import source_from
from fastserve.cli.trace_arguments import reading_of, tell
from fastserve.importing import extra

__all__ = ["add_arguments", "run"]

FAILED, USAGE, INTERRUPTED = 1, 2, 130

CHAT_TEMPLATE = 64
"""Tokens of the context that are left to a chat's template, which a client does not know."""


def run(args: argparse.Namespace) -> int:
    """Returns 0 after a run, 1 if nobody answered or nothing was completed, 2 for usage, 130 after Ctrl-C."""
    try:
        from fastserve.atomic_files import OutputError, check_writable
        from fastserve.bench.target import TargetError
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed; {extra('bench')}", USAGE)
    try:
        if args.save_result or args.save_detailed:
            check_writable(Path(args.result_dir) / "result.json")
        if args.programs_csv:
            check_writable(Path(args.programs_csv))
        plan = prepare(args)
    except (TargetError, OutputError) as error:
        return _failed(str(error), FAILED)
    except ValueError as error:
        return _failed(str(error), USAGE)
    return measure(args, plan)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is known before the first request."""

    workload: Workload
    api: Any
    about: Any
    chosen: Any


def prepare(args: argparse.Namespace) -> Prepared:
    """Asks the server, reads the workload, makes the prompts. Raises ValueError or TargetError."""
    from fastserve import predictors
    from fastserve.bench.api import HttpApi
    from fastserve.bench.api_formats import FORMATS, RequestOptions
    from fastserve.bench.document import About
    from fastserve.bench.metrics import Selection
    from fastserve.bench.prompts import ids_of
    from fastserve.bench.schedule import requests_for
    from fastserve.bench.target import TargetClient, TargetError
    from fastserve.metrics.slo import Slo
    from fastserve.workload.requests import guesses_of

    format = FORMATS[args.api]
    chosen = Selection(
        metrics=args.percentile_metrics, percentiles=args.metric_percentiles, goodput=_limits(args) or None
    )
    if args.prompts == "ids" and not format.ids:
        raise ValueError(f"--prompts ids: {args.api} takes text only")
    predictors.check(args.predictor)
    key = args.api_key or os.environ.get("OPENAI_API_KEY")
    headers = ({"Authorization": f"Bearer {key}"} if key else {}) | dict(args.header)
    client = TargetClient(args.url, headers)
    target = client.probe(args.ready_check_timeout_sec)
    model = args.model or next(iter(target.models), None)
    if model is None and args.api.startswith("openai"):
        raise TargetError(f"{client.url} lists no model; name one with --model")

    counting = _counter(args, client, model)
    dataset = _dataset(args, counting)
    trace = dataset.trace
    predictor = predictors.make(args.predictor, args.seed, guesses_of(trace))
    exact = args.ignore_eos if args.ignore_eos is not None else dataset.texts is None
    hide = exact and (target.own if args.hide_lengths == "auto" else args.hide_lengths == "on")
    ids = None
    if args.prompts == "ids" or (args.prompts == "auto" and format.ids):
        ids = args.token_ids or ids_of(target.vocab_size)
    room = target.max_model_len
    if room is not None and not format.ids:
        room -= CHAT_TEMPLATE
    requests = requests_for(trace, predictor, room)
    workload = workload_of(args, trace, requests, texts=dataset.texts, ids=ids, counting=counting)
    workload.tell(trace)
    limits = {request.limit for request in requests}
    options = RequestOptions(
        model=model,
        hide_lengths=hide,
        ignore_eos=exact,
        own=target.own,
        xargs=args.vllm_xargs,
        temperature=args.temperature,
        keep_text=args.save_detailed or workload.wants_text,
        token_ids=workload.wants_token_ids,
        programs=workload.sessions is not None,
        extra=args.extra_body,
    )
    settings = {
        "url": client.url,
        "endpoint": args.endpoint or format.path,
        "own_server": target.own,
        "backend": target.backend,
        "server": dict(target.settings),
        "workload": trace.name,
        "source": trace.source,
        "digest": trace.digest(),
        "seed": args.seed,
        "resample": None if args.trace is None else args.resample,
        "dropped_rows": dict(trace.dropped),
        **workload.settings(),
        "lengths": _lengths(exact, hide),
        "max_tokens": max(limits) if hide else None,
        "shortened_limits": hide and len(limits) > 1 and trace.max_tokens is None,
        "predictor": args.predictor,
        "slo": None if args.slo is None else str(Slo.parse(args.slo)),
        "temperature": args.temperature,
        "extra_body": args.extra_body,
        "vllm_xargs": args.vllm_xargs,
        "timeout_s": args.timeout,
        "num_warmups": args.num_warmups,
    }
    about = About(
        api=args.api,
        label=args.label,
        model=model,
        tokenizer=args.tokenizer,
        metadata=dict(args.metadata),
        request_rate=args.request_rate or trace.rate or math.inf,
        burstiness=args.burstiness,
        settings=settings,
        exact=exact,
    )
    api = HttpApi(args.url, format(options), endpoint=args.endpoint, headers=headers)
    return Prepared(workload, api, about, chosen)


def _limits(args: argparse.Namespace) -> dict[str, float]:
    """Metric -> limit in ms. Raises ValueError."""
    from fastserve.bench.metrics import limits_of
    from fastserve.metrics.slo import Slo

    if args.slo is not None and args.goodput:
        raise ValueError("--slo and --goodput set the same limits: give one of them")
    return dict(args.goodput) if args.slo is None else limits_of(Slo.parse(args.slo))


def measure(args: argparse.Namespace, plan: Prepared) -> int:
    """Runs, prints, saves."""
    from fastserve.atomic_files import OutputError
    from fastserve.bench.document import as_document, file_name
    from fastserve.bench.event_loop import on_best_loop, undisturbed
    from fastserve.bench.report import report, warnings
    from fastserve.bench.save import save_csv, save_document, save_records

    with undisturbed():
        result, loop = on_best_loop(_run(args, plan))
    workload = plan.workload
    about = replace(plan.about, settings={**plan.about.settings, **workload.settings(), "event_loop": loop})
    found = as_document(result, about, plan.chosen, detailed=args.save_detailed)
    print(json.dumps(found, indent=2, allow_nan=False) if args.json else report(found))
    for warning in [*warnings(found), *warnings_of(workload, found)]:
        print(f"warning: {warning}", file=sys.stderr)
    saved = []
    label = args.label or args.api
    names = {"policy": about.metadata.get("policy", label), "label": label, "seed": args.seed}
    try:
        if args.save_result or args.save_detailed:
            path = Path(args.result_dir) / (args.result_filename or file_name(result, about))
            saved += [save_document(path, found), save_records(path.with_suffix(""), result.columns(), **names)]
        if args.programs_csv:
            saved.append(save_csv(Path(args.programs_csv), result.programs(), names))
    except OutputError as error:
        return _failed(str(error), FAILED)
    if saved:
        print(f"saved {', '.join(map(str, saved))}", file=sys.stderr)
    if result.interrupted:
        print(
            f"stopped: {found['completed']} of {found['num_prompts']} requests were completed and count in full; "
            f"{found['failed']} failed or were given up, {found['not_sent']} were never sent",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0 if found["completed"] else _failed("no request was completed", FAILED)


async def _run(args: argparse.Namespace, plan: Prepared) -> Any:
    from fastserve.bench.loop import Progress, run
    from fastserve.bench.progress import show
    from fastserve.bench.session_loop import run_sessions

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # the next one is meant

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
        loop.add_signal_handler(signal.SIGINT, interrupted)
    lines: list[asyncio.Task[None]] = []

    def watch(progress: Progress) -> None:
        if sys.stderr.isatty():
            lines.append(asyncio.create_task(show(progress, sys.stderr)))

    workload = plan.workload
    bounds = {"timeout_s": args.timeout, "stop": stop}
    capped = {"max_concurrency": args.max_concurrency, **bounds}
    try:
        if workload.warm_up:
            await run(workload.warm_up, plan.api, **capped)
        if workload.sessions is not None and workload.made is not None:
            return await run_sessions(workload.made, plan.api, workload.sessions, watch=watch, **bounds)
        return await run(workload.calls, plan.api, watch=watch, **capped)
    finally:
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        plan.api.close()


def _counter(args: argparse.Namespace, client: Any, model: str | None) -> Any:
    """text -> tokens: by --tokenizer, else by the server; None where neither can."""
    if args.tokenizer:
        try:
            from transformers import AutoTokenizer
        except ModuleNotFoundError:
            raise ValueError(f"--tokenizer needs transformers; {extra('engine')}") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        except (OSError, ValueError) as error:
            raise ValueError(f"--tokenizer {args.tokenizer}: {error}") from None
        return lambda text: len(tokenizer(text).input_ids)
    texts = args.prompts == "text" or args.api == "openai-chat" or args.dataset_name in ("sharegpt", "custom")
    if not texts or client.counts(model, "one two three") is None:
        return None
    return lambda text: client.counts(model, text) or 1


def _dataset(args: argparse.Namespace, counting: Any) -> Any:
    from fastserve.bench.datasets import Arrivals, Dataset, custom, random_lengths, sharegpt
    from fastserve.workload import Trace, read_trace

    rate = args.request_rate
    if args.trace is not None or args.synth is not None:
        if args.dataset_name is not None:
            raise ValueError("give --trace or --synth, or --dataset-name, not both")
        finite = rate if rate is not None and math.isfinite(rate) else None

        def read(num_requests: int | None) -> Trace:
            return read_trace(
                args.trace,
                **reading_of(args),
                rate=finite,
                seed=args.seed,
                start_s=args.start,
                duration_s=args.duration,
                num_requests=num_requests,
            )

        source = source_from(args, read, num_requests=args.num_prompts, seeds=args.seed + 1)
        trace = (source if finite is None else source.at_rate(finite)).trace(args.seed)
        tell(trace)
        return Dataset(trace if finite == rate else replace(trace, arrival=trace.arrival * 0))
    arrivals = Arrivals(rate=math.inf if rate is None else rate, burstiness=args.burstiness)
    n = args.num_prompts or 1000
    if args.dataset_name in (None, "random"):
        return random_lengths(
            n,
            arrivals,
            prompt=args.input_len,
            output=128 if args.output_len is None else args.output_len,
            spread=args.random_range_ratio,
            seed=args.seed,
        )
    if args.dataset_path is None:
        raise ValueError(f"--dataset-name {args.dataset_name} needs --dataset-path FILE")
    path = Path(args.dataset_path)
    if args.dataset_name == "sharegpt":
        if counting is None:
            raise ValueError("sharegpt needs token counts: give --tokenizer PATH (the server has no /tokenize)")
        return sharegpt(path, n, arrivals, counting, output=args.output_len, seed=args.seed)
    output = 256 if args.output_len is None else None if args.output_len == -1 else args.output_len
    return custom(path, n, arrivals, counting or (lambda text: len(text.split())), output=output, seed=args.seed)


def _lengths(exact: bool, hide: bool) -> str:
    if hide:
        return "hidden: stop_after ends an answer, max_tokens is one constant"
    return (
        "told: max_tokens is each answer's length, with ignore_eos" if exact else "max_tokens; an answer may end before"
    )


def _failed(why: str, status: int) -> int:
    print(f"fastserve bench: error: {why}", file=sys.stderr)
    return status
