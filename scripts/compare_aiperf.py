"""Compares the measurements of aiperf and `fastserve bench`: one schedule, one stub server, both clients in turn.

    python -m venv build/aiperf && build/aiperf/bin/pip install aiperf
    python scripts/compare_aiperf.py build/aiperf/bin/aiperf [--requests 100] [--rate 5] [--rounds 5]

Metrics, aiperf's and ours: time_to_first_token and ttft, request_latency and e2el, inter_token_latency and tpot
(aiperf's is per request, over its tokens, so it is our tpot and not our itl). Needs transformers. Exits 1 if a mean
differs by 2 % in the median round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAIRS = {
    "time_to_first_token": "mean_ttft_ms",
    "request_latency": "mean_e2el_ms",
    "inter_token_latency": "mean_tpot_ms",
}
AGREE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("aiperf", type=Path, help="its executable")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    delays = ["--ttft-ms", "40", "--tpot-ms", "15"]
    command = [sys.executable, "-m", "fastserve.bench.stub", *delays]
    apart: dict[str, list[float]] = {name: [] for name in PAIRS}
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        try:
            assert stub.stdout is not None
            url = stub.stdout.readline().strip()
            folder = Path(name)
            tokenizer(folder / "tokenizer")
            schedule(folder, args.requests, args.rate)
            for number in range(args.rounds):
                theirs = theirs_of(args.aiperf, url, folder, folder / f"aiperf{number}")
                ours = ours_of(url, folder)
                assert ours["completed"] == args.requests, ours["failures"]
                for their_name, our_name in PAIRS.items():
                    a, b = theirs[their_name]["avg"], ours[our_name]
                    apart[their_name].append(b / a - 1)
                    print(
                        f"round {number}  {their_name:20} aiperf {a:9.3f}  ours {b:9.3f} ms  {b / a - 1:+.2%}",
                        flush=True,
                    )
        finally:
            stub.terminate()
    medians = {name: statistics.median(ratios) for name, ratios in apart.items()}
    print("median round: " + ", ".join([f"{name} {ratio:+.2%}" for name, ratio in medians.items()]))
    return int(max(map(abs, medians.values())) >= AGREE)


def schedule(folder: Path, n: int, rate: float) -> None:
    """One schedule in both clients' formats: without hash_ids, a `timestamp` means seconds to our reader."""
    source = random.Random(1)
    theirs, ours, at = [], [], 0.0
    for _ in range(n):
        ms, prompt, output = round(1e3 * at), source.randint(16, 64), source.randint(4, 40)
        theirs.append({"timestamp": ms, "input_length": prompt, "output_length": output})
        ours.append({"arrival_s": ms / 1e3, "prompt_tokens": prompt, "output_tokens": output})
        at += source.expovariate(rate)
    for name, rows in (("theirs", theirs), ("ours", ours)):
        (folder / f"{name}.jsonl").write_text("".join([json.dumps(row) + "\n" for row in rows]))


def theirs_of(aiperf: Path, url: str, folder: Path, out: Path) -> dict[str, Any]:
    words = f"profile -m stub -u {url} --endpoint-type completions --streaming --ui none --random-seed 3"
    words += " --use-server-token-count --custom-dataset-type mooncake-trace --fixed-schedule"
    words += f" --tokenizer {folder / 'tokenizer'} --input-file {folder / 'theirs.jsonl'} --artifact-dir {out}"
    # Told to be offline, it takes a path for the name of a repository.
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([aiperf, *words.split()], capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.exit(f"aiperf failed:\n{(done.stdout + done.stderr)[-3000:]}")
    found: dict[str, Any] = json.loads((out / "profile_export_aiperf.json").read_text())
    return found


def ours_of(url: str, folder: Path) -> dict[str, Any]:
    words = ["-m", "fastserve", "bench", "--json", "--url", url, "--trace", str(folder / "ours.jsonl")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tokenizer(folder: Path) -> None:
    """Byte-level: one ASCII character is one token. Made here, so that nothing is downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<eos>"]
    made = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
