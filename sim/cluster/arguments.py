"""The flags of a cluster, for `python -m sim`."""

from __future__ import annotations

import argparse
from typing import Any

from fastserve.routers import ROUTERS
from fastserve.routers.spec import RouterSpec
from fastserve.sched.config import describe
from sim.cluster.settings import RESEND, ROUTER, ClusterSettings


class RouterAction(argparse.Action):
    """--router starts one more; --router-set belongs to the one before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        routers = list(getattr(namespace, "routers", None) or [])
        try:
            if option_string == "--router":
                routers.append(RouterSpec(values))
            else:
                routers = routers or [RouterSpec(ROUTER)]
                routers[-1] = routers[-1].with_argument(values)
        except ValueError as error:
            parser.error(f"{option_string} {values}: {error}")
        namespace.routers = routers


def add_cluster(parser: argparse._ActionsContainer) -> None:
    """args.routers is a list of RouterSpecs or None; the others are fields of ClusterSettings."""
    texts = describe(ClusterSettings)
    add = parser.add_argument
    add("--replicas", type=int, default=1, metavar="N", help=f"{texts['replicas']} (default: %(default)s)")
    which = f"which of them gets a request: {', '.join(ROUTERS)}, or your own as module:Class or ./file.py:Class"
    router: dict[str, Any] = {"action": RouterAction, "dest": "routers"}
    add("--router", metavar="NAME", default=None, help=f"{which}; several are compared", **router)
    add("--router-set", metavar="KEY=VALUE", default=argparse.SUPPRESS, help="a setting of that router", **router)
    more: dict[str, Any] = {"action": "append", "default": []}
    add("--replica", metavar="KEY=VALUE,...", help=f"{texts['replica']}; may be repeated", **more)
    add("--view-delay", type=float, default=0.0, metavar="S", help=texts["view_delay"])
    add("--hop", type=float, default=0.0, metavar="S", help=texts["hop"])
    add("--fail", metavar="R@S[:back@S]", help=f"{texts['fail']}; may be repeated", **more)
    add("--drain", metavar="R@S[:back@S]", help=texts["drain"], **more)
    add("--resend", choices=RESEND, default=RESEND[0], help=f"{texts['resend']} (default: %(default)s)")
