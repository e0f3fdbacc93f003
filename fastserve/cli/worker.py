"""`fastserve worker`: runs the jobs of a queue on a server or gateway."""

from __future__ import annotations

import argparse
import os
import sys

from fastserve.importing import MissingPackageError, extra
from fastserve.jobqueue import redis_url

QUEUE = "FASTSERVE_QUEUE"
FAILED, USAGE = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from fastserve.jobqueue.messages import VISIBILITY_S
    from fastserve.jobqueue.runner import DRAIN_S
    from fastserve.jobqueue.worker import CONCURRENCY

    parser.add_argument(
        "--queue", metavar="URL", default=os.environ.get(QUEUE),
        help=f"redis://HOST:PORT of the queue, as the server's --queue (default: the environment's {QUEUE}, which ps "
        "does not show)",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL", default="http://127.0.0.1:8000",
        help="server or gateway that runs the jobs (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--server-key-env", metavar="NAME", help="environment variable with its token, where it wants one"
    )
    parser.add_argument(
        "--concurrency", type=int, default=CONCURRENCY, metavar="N", help="jobs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--visibility-timeout", type=float, default=VISIBILITY_S, metavar="SECONDS",
        help="after so long without a sign of life of this worker its jobs go to another one; alike for all workers "
        "of a queue (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--drain-seconds", type=float, default=DRAIN_S, metavar="SECONDS",
        help="after SIGTERM: seconds that jobs may take to end, before others get them (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info",
        help="minimum severity of log lines (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="format of log lines (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or Ctrl-C, and --drain-seconds more at most. Returns 2 for invalid arguments."""
    try:
        from fastserve.server.config import addresses
        from fastserve.server.http import logs
    except ModuleNotFoundError as error:
        return _refuse(f"{error.name} is not installed; {extra('queue,web')}", FAILED)
    key = ""
    try:
        if not args.queue:
            raise ValueError(f"give --queue redis://HOST:PORT, or set {QUEUE}")
        try:
            redis_url.checked(args.queue)
        except ValueError as error:
            raise ValueError(f"--queue: {error}") from None
        if not args.server.startswith(("http://", "https://")):
            raise ValueError(f"--server {args.server}: it must begin with http:// or https://")
        addresses.url(args.server)
        if args.concurrency < 1:
            raise ValueError(f"--concurrency {args.concurrency}: give at least 1")
        if not 1 <= args.visibility_timeout <= 86400:
            raise ValueError(f"--visibility-timeout {args.visibility_timeout:g}: give seconds from 1 to 86400")
        if not 0 <= args.drain_seconds <= 86400:
            raise ValueError(f"--drain-seconds {args.drain_seconds:g}: give seconds from 0 to 86400")
        if args.server_key_env:
            key = os.environ.get(args.server_key_env, "").strip()
            if not key:
                raise ValueError(f"--server-key-env {args.server_key_env}: there is no such variable, or it is empty")
    except ValueError as error:
        return _refuse(str(error), USAGE)
    logs.set_up(args.log_level, args.log_format)
    try:
        from fastserve.jobqueue.worker import work

        return work(args.queue, args.server, key=key, concurrency=args.concurrency,
                    visibility_s=args.visibility_timeout, drain_s=args.drain_seconds)  # fmt: skip
    except MissingPackageError as error:
        return _refuse(str(error), FAILED)


def _refuse(message: str, status: int) -> int:
    print(f"fastserve worker: error: {message}", file=sys.stderr)
    return status
