"""Compile the brain and the modelled machine with mypyc into build/compiled; optional, two to four times as fast.

    python scripts/compile.py

The result is a copy of fastserve/ and sim/ with extension modules beside the sources, in a folder of its own, and the
hash of the text they were made of. `python -m sim`, experiments and notebooks use it while that is the checkout's text
(sim/compiled.py), so the checkout never runs code older than its text.

Policies of your own stay interpreted and work unchanged. Needs a C compiler, mypy and setuptools.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "compiled"
INT64 = "fastserve/sched/int64.py"
"""Its i64 becomes a machine integer; the brain itself imports the standard library only."""

MODULES = (
    INT64,
    *[f"fastserve/sched/{name}.py" for name in ("units", "job", "plan", "link", "policy", "ranking", "kv")],
    *[f"fastserve/sched/{name}.py" for name in ("batching", "residency", "charging", "eviction", "checks", "alarms")],
    *[f"fastserve/sched/{name}.py" for name in ("bounds", "draft", "host_tier", "sharing")],
    *[f"fastserve/sched/{name}.py" for name in ("choose", "uneven", "members", "amend")],
    *[f"fastserve/sched/{name}.py" for name in ("holding", "programs", "pins")],
    *[f"fastserve/sched/{name}.py" for name in ("scheduler", "prefix", "seats", "observer")],
    *[f"fastserve/hardware/{name}.py" for name in ("base", "lines", "linear", "machine_times")],
    *[f"fastserve/policies/{name}.py" for name in ("fcfs", "fixed_priority", "las", "mlfq", "priority", "shortest")],
    *[f"fastserve/policies/{name}.py" for name in ("skip_join", "programs", "program_fcfs", "plas", "atlas")],
    *[f"fastserve/policies/{name}.py" for name in ("deepest_first", "lpm", "cachewise", "gaps", "gate")],
    *[f"fastserve/policies/{name}.py" for name in ("continuum", "thunder", "concur", "working_set")],
    *[f"fastserve/routers/{name}.py" for name in ("router", "load", "turns", "sent_since", "sent_prefixes")],
    *[f"fastserve/routers/{name}.py" for name in ("round_robin", "random_choice", "weighted", "power_of_two")],
    *[f"fastserve/routers/{name}.py" for name in ("least_connections", "least_tokens", "freeness")],
    *[f"fastserve/routers/{name}.py" for name in ("rendezvous", "session", "prefix")],
    "fastserve/speculation/acceptance.py",
    "fastserve/speculation/control.py",
    "fastserve/metrics/records.py",
    "fastserve/workload/requests.py",
    "sim/inbox.py",
    "sim/link.py",
    "sim/machine.py",
    "sim/speculating.py",
    "sim/session_inbox.py",
    "sim/driver.py",
    *[f"sim/cluster/{name}.py" for name in ("books", "inbox", "replica", "looks", "cluster")],
    "sim/world.py",
)
OPEN: dict[str, tuple[str, ...]] = {
    "fastserve/sched/policy.py": ("Policy",),
    "fastserve/sched/observer.py": ("Observer",),
    "fastserve/policies/fcfs.py": ("Fcfs",),
    "fastserve/policies/fixed_priority.py": ("FixedPriority",),
    "fastserve/policies/las.py": ("Las",),
    "fastserve/policies/mlfq.py": ("Mlfq",),
    "fastserve/policies/priority.py": ("Priority",),
    "fastserve/policies/shortest.py": ("Sjf", "Srpt"),
    "fastserve/policies/skip_join.py": ("SkipJoinMlfq",),
    "fastserve/policies/programs.py": ("Program", "Programs"),
    "fastserve/policies/program_fcfs.py": ("ProgramFcfs",),
    "fastserve/policies/plas.py": ("Plas", "Served"),
    "fastserve/policies/atlas.py": ("Atlas",),
    "fastserve/policies/deepest_first.py": ("DeepestFirst",),
    "fastserve/policies/gate.py": ("Gate", "Member"),
    "fastserve/policies/continuum.py": ("Continuum",),
    "fastserve/policies/thunder.py": ("Thunder",),
    "fastserve/policies/concur.py": ("Concur",),
    "fastserve/policies/working_set.py": ("WorkingSet",),
    "fastserve/policies/lpm.py": ("Lpm",),
    "fastserve/policies/cachewise.py": ("CacheWise",),
    "fastserve/routers/router.py": ("Router",),
    "fastserve/routers/round_robin.py": ("RoundRobin",),
    "fastserve/routers/random_choice.py": ("RandomChoice",),
    "fastserve/routers/weighted.py": ("Weighted",),
    "fastserve/routers/power_of_two.py": ("PowerOfTwo",),
    "fastserve/routers/least_connections.py": ("LeastConnections",),
    "fastserve/routers/least_tokens.py": ("LeastTokens",),
    "fastserve/routers/freeness.py": ("Freeness",),
    "fastserve/routers/session.py": ("Session",),
    "fastserve/routers/prefix.py": ("Prefix",),
    "fastserve/hardware/base.py": ("LatencyModel",),
    "fastserve/hardware/lines.py": ("LineModel",),
}
"""Classes that interpreted code may subclass, every shipped policy and router among them. mypyc must be told, and
the brain imports the standard library only.
"""

FLAGS = "-fno-semantic-interposition -fno-plt -fomit-frame-pointer"
"""Of GCC and clang on Linux, unless CFLAGS says otherwise; some three per cent."""

DECORATOR = "from mypy_extensions import mypyc_attr\n\n\n@mypyc_attr(allow_interpreted_subclasses=True)\n"
SETUP = """from mypyc.build import mypycify
from setuptools import setup

compiled = mypycify(["--config-file=mypy.ini", *{modules!r}], opt_level="3")
setup(name="fastserve-compiled", packages=[], py_modules=[], ext_modules=compiled)
"""
# What the brain's package names lazily is not looked into: PyTorch alone would take gigabytes.
CONFIG = """[mypy]
ignore_missing_imports = true

[mypy-fastserve.engine.*,fastserve.server.*,fastserve.server.config.settings]
follow_imports = skip
"""


def main() -> int:
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for package in ("fastserve", "sim"):
        shutil.copytree(ROOT / package, TARGET / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copytree(ROOT / "traces", TARGET / "traces")
    compiled = runpy.run_path(str(ROOT / "sim" / "compiled.py"))
    hashed = compiled["digest"](TARGET, MODULES)  # of the copy: the checkout may change while this works
    plain = {path: (TARGET / path).read_bytes() for path in (*OPEN, INT64)}
    for path, name in [(path, name) for path, names in OPEN.items() for name in names]:
        file = TARGET / path
        text, count = re.subn(
            rf"^class {name}\b", f"{DECORATOR}class {name}", file.read_text(encoding="utf-8"), flags=re.M
        )
        if count != 1:
            raise SystemExit(f"{path} has no class {name} any more: adapt scripts/compile.py")
        file.write_text(text, encoding="utf-8")
    (TARGET / INT64).write_text("from mypy_extensions import i64 as i64\n", encoding="utf-8")
    (TARGET / "setup.py").write_text(SETUP.format(modules=list(MODULES)), encoding="utf-8")
    (TARGET / "mypy.ini").write_text(CONFIG, encoding="utf-8")
    flags = {"CFLAGS": FLAGS} if sys.platform == "linux" else {}
    log = TARGET / "compile.log"
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=TARGET,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=flags | dict(os.environ) | {"MYPYPATH": str(TARGET)},
            check=False,
        )
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        print("\n".join(tail), file=sys.stderr)
        print(f"scripts/compile.py: mypyc failed; the whole log is {log}", file=sys.stderr)
        return 1
    shutil.rmtree(TARGET / "build", ignore_errors=True)
    for path, content in plain.items():
        (TARGET / path).write_bytes(content)  # the extension is what runs; the text is what a result is traced to
    compiled["stamp"](TARGET, hashed, MODULES)
    print(f"compiled {len(MODULES)} modules into {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
