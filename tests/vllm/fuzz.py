"""Random cases through our Scheduler inside vLLM's, for a while.

    python -m tests.vllm.fuzz SECONDS [SEED]            the real classes where vLLM is installed, else the stand-ins
    python -m tests.vllm.fuzz --case '{"seed": 3}'      one case again; --shrink looks for a smaller one that fails
    python -m tests.vllm.fuzz --stand-ins ...           the stand-ins in any case

A failure is printed with its case as JSON. Exits 1 where there was one.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.vllm import standin
from tests.vllm.api import INSTALLED, Api, real
from tests.vllm.api import standin as standin_api
from tests.vllm.cases import Case, draw, smaller
from tests.vllm.drive import Drive, serve

MOST = 5  # failures, after which it is enough


def api_here(standins: bool = False) -> Api:
    """The real classes where vLLM is installed, else (or if asked for) the stand-ins, under its names."""
    if INSTALLED and not standins:
        return real()
    standin.install()
    return standin_api()


def attempt(api: Api, case: Case) -> Drive:
    """Raises what goes wrong, AssertionError most likely."""
    with tempfile.TemporaryDirectory() as folder:
        return serve(api, case, Path(folder))


def shrink(api: Api, case: Case, seconds: float = 60) -> Case:
    """A simpler case that fails as well."""
    end = time.monotonic() + seconds
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for simpler in smaller(case):
            try:
                attempt(api, simpler)
            except Exception:
                case, changed = simpler, True
                break
    return case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float, nargs="?", default=30)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--case", help="one case, as a failure has printed it")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller case that fails")
    parser.add_argument("--policy", action="append", help="only this policy (may be given several times)")
    parser.add_argument("--stand-ins", action="store_true", help="though vLLM is installed")
    args = parser.parse_args()
    api = api_here(args.stand_ins)
    rng = random.Random(args.seed)
    began = time.monotonic()
    runs, failures = 0, 0
    tally: Counter[str] = Counter()
    while time.monotonic() < began + args.seconds and failures < MOST:
        case = Case.of(args.case) if args.case else draw(rng, args.policy)
        try:
            drive = attempt(api, case)
        except Exception:
            failures += 1
            print(f"FAILED {case}", flush=True)
            traceback.print_exc()
            if args.shrink:
                print(f"smaller: {shrink(api, case)}", flush=True)
        else:
            runs += 1
            tally.update(drive.counts)
            tally.update({"ahead": case.ahead, "requests": len(drive.told)})
        if args.case:
            break
    print(f"{runs} runs on {api.name}, {failures} failures, seed {args.seed}: {dict(tally)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
