"""`fastserve check NAME`: checks that a policy keeps the contract; with --router NAME, that a router does."""

from __future__ import annotations

import argparse
import sys

from fastserve.cli.arguments import ROUTER_HELP, add_model_arguments, add_policy, options_of, policy_of
from fastserve.importing import missing
from fastserve.routers.conformance import check_router
from fastserve.routers.router import Router
from fastserve.routers.spec import RouterSpec
from fastserve.sched.conformance.check import ConformanceError, check_policy
from fastserve.sched.keywords import argument
from fastserve.sched.policy import Policy

KEPT, BROKEN, USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_policy(parser, positional=True)
    parser.add_argument("--router", metavar="NAME", help=f"check a router instead: {ROUTER_HELP}")
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="workload seeds to try (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="the first seed only")
    parser.add_argument(
        "--live", action="store_true", help="also serve requests with it on a live engine (needs the engine extra)"
    )
    add_model_arguments(parser.add_argument_group("the live engine of --live"))


def run(args: argparse.Namespace) -> int:
    """Prints the result. Returns 0 if the contract is kept, 1 if not, 2 for invalid arguments."""
    try:
        if args.seeds < 1:
            raise ValueError(f"--seeds {args.seeds}: give at least 1")
        if (args.policy is None) == (args.router is None):
            raise ValueError("give a policy by its name, or a router as --router NAME")
        if args.router is not None:
            return _check_router(args)
        spec = policy_of(args)
        kind = spec.kind
        if spec.knobs:  # without any, what its constructor says is for the author: it is the first thing checked
            spec.fresh()
    except ValueError as error:
        hint = f"; it is a router: fastserve check --router {args.policy}" if _is_router(args.policy) else ""
        return _refuse(f"{error}{hint}")

    def fresh() -> Policy:
        return kind(**spec.knobs)

    fresh.__name__ = kind.__name__
    try:
        print(check_policy(fresh, seeds=range(args.seeds), quick=args.quick))
        if args.live:
            from fastserve.engine.trial import live_trial

            print(live_trial(spec, args.backend, args.model, **options_of(args)))
    except ImportError as error:
        return _refuse(f"--live: {missing(error, 'engine')}")
    except (ValueError, OSError, MemoryError) as error:  # the body of --live cannot be made, or does not work by itself
        return _refuse(f"--live: {error}")
    except ConformanceError as error:
        print(f"{kind.__name__} breaks the contract ({error.check}).\n{error}")
        return BROKEN
    return KEPT


def _check_router(args: argparse.Namespace) -> int:
    """Raises ValueError."""
    if args.live:
        raise ValueError("--live is for policies: a router works in front of engines, see `fastserve gateway`")
    spec = RouterSpec(args.router, dict(map(argument, args.set)))
    kind = spec.kind
    if spec.knobs:
        spec.fresh()

    def fresh() -> Router:
        return kind(**spec.knobs)

    fresh.__name__ = kind.__name__
    try:
        print(check_router(fresh, seeds=range(args.seeds), quick=args.quick))
    except ConformanceError as error:
        print(f"{kind.__name__} breaks the contract ({error.check}).\n{error}")
        return BROKEN
    return KEPT


def _is_router(name: str | None) -> bool:
    """Whether what was given as a policy is a router."""
    try:
        return name is not None and RouterSpec(name, {}).kind is not None
    except ValueError:
        return False


def _refuse(message: str) -> int:
    print(f"fastserve check: error: {message}", file=sys.stderr)
    return USAGE
