"""`fastserve check NAME`: does a policy keep the contract?"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastserve.policies import POLICIES, find, make
from fastserve.policies.literal import literal
from fastserve.sched.conformance.check import ConformanceError, check_policy
from fastserve.sched.policy import Policy

KEPT, BROKEN, USAGE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "policy", help=f"{', '.join(POLICIES)}, or your own as module:Class (the current folder is importable)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a keyword of its constructor; may be repeated"
    )
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="workload seeds to try (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="the first seed only")
    parser.add_argument(
        "--live", action="store_true", help="serve requests on the live engine under it too (needs the engine extra)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the verdict. Returns 0 if the contract is kept, 1 if not, 2 if there is nothing to check."""
    try:
        if args.seeds < 1:
            raise ValueError(f"--seeds {args.seeds}: give at least 1")
        settings = dict(map(setting, args.set))
        policy = find(args.policy)
        if settings:
            make(args.policy, settings)
    except ValueError as error:
        return _refuse(str(error))
    except (Exception, SystemExit) as error:  # the author's own module, while it is imported
        return _refuse(f"policy {args.policy!r} cannot be imported: {type(error).__name__}: {error}")

    def fresh() -> Any:
        return policy(**settings)

    fresh.__name__ = policy.__name__
    try:
        print(check_policy(fresh, seeds=range(args.seeds), quick=args.quick))
        if args.live:
            print(_live(fresh, policy))
    except ImportError as error:
        return _refuse(f"--live needs the engine's extra, pip install 'fastserve-testbed[engine]': {error}")
    except ConformanceError as error:
        print(f"{policy.__name__} breaks the contract ({error.check}).\n{error}")
        return BROKEN
    return KEPT


def _live(fresh: Any, policy: type[Policy]) -> str:
    from fastserve.engine.trial import live_trial

    return live_trial(fresh, policy.__name__, guess="guess" in policy.needs)


def _refuse(message: str) -> int:
    print(f"fastserve check: error: {message}", file=sys.stderr)
    return USAGE


def setting(text: str) -> tuple[str, Any]:
    """key=value, read as `literal` says; dashes in the key are underscores. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text}: write it as key=value")
    return key.replace("-", "_"), literal(value)
