"""python -m experiments --scale smoke|small|paper: every experiment, one after the other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from experiments._lib.sweep import add_options, guarded, names, show


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    add_options(parser)
    parser.add_argument("--only", action="append", choices=names(), metavar="NAME", help="these (repeat for several)")
    args = parser.parse_args(arguments)
    for name in args.only or names():
        code = guarded(lambda name=name: show(args, name))  # type: ignore[misc]
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
