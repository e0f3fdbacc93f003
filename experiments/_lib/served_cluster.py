"""A gateway and the servers behind it as child processes: servers with modelled times that pass for real."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fastserve.compare.contender import Server
from fastserve.compare.http import HttpBody
from fastserve.compare.subprocess_server import Child, ServerProcess, environment, own_folder
from fastserve.metrics.summary import Columns
from fastserve.routers.spec import RouterSpec
from fastserve.workload import Trace

ENTRY = "import sys; from fastserve.processes.parent import end_with_parent; from fastserve.__main__ import main; "
ENTRY += "end_with_parent(); sys.exit(main(['gateway', *sys.argv[1:]]))"


class GatewayProcess(Child):
    """`fastserve gateway` in front of these upstreams, on a free port. Raises ServerError."""

    def __init__(self, upstreams: Sequence[str], router: RouterSpec, view_interval: float, seed: int) -> None:
        own = ["--port", "0", "--router", router.path, "--view-interval", str(view_interval), "--log-level", "warning",
               "--wait-for-upstreams", "60", "--seed", str(seed)]  # fmt: skip
        for url in upstreams:
            own += ["--upstream", url]
        for key, value in router.knobs.items():
            own += ["--router-set", f"{key}={value}"]
        folder = own_folder()
        super().__init__([sys.executable, "-c", ENTRY, *own], folder, environment() | {"FASTSERVE_DOTENV": "off"}, 120)

    def ready(self) -> str | None:
        return self.said_url


@contextmanager
def servers(count: int, latency: str, max_batch: int) -> Iterator[list[str]]:
    """URLs of so many servers of ours whose times are a modelled machine's; each serves first come, first served."""
    flags = ["--backend", "scripted", "--latency", latency, "--policy", "fcfs", "--max-batch", str(max_batch),
             "--log-level", "warning", "--request-timeout", "0", "--queue-capacity", "100000"]  # fmt: skip
    with ExitStack() as stack:
        yield [stack.enter_context(ServerProcess(flags)).url for _ in range(count)]


def sent_through(
    urls: Sequence[str], router: RouterSpec, view_interval: float, trace: Trace, seed: int
) -> tuple[Columns, dict[str, Any]]:
    """Records of the trace, sent to a gateway in front of these servers, and notes on the run.

    Raises ServerError or CompareError.
    """
    with GatewayProcess(urls, router, view_interval, seed) as gateway:
        replay = HttpBody([], {}).replay_on(Server(gateway.url), gateway.url, gateway, trace, seed)
    return replay.records, replay.notes
