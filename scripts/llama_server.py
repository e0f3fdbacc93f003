"""llama.cpp's own HTTP server in the foreground, from the prebuilt package xllamacpp (pip install xllamacpp).

    python scripts/llama_server.py MODEL.gguf --port 8080 --slots 4 --context 2048

--context: tokens of each slot. Ends with SIGTERM or Ctrl-C; with --until-eof also when its standard input does, as when
the program that started it is gone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--until-eof", action="store_true")
    args = parser.parse_args()
    try:
        import xllamacpp
    except ImportError:
        print("llama_server: xllamacpp is not installed: pip install xllamacpp", file=sys.stderr)
        return 2
    if not args.model.is_file():
        print(f"llama_server: there is no file {args.model}", file=sys.stderr)
        return 2
    params = xllamacpp.CommonParams()
    params.model.path = str(args.model)
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.slots * args.context
    params.endpoint_metrics = params.endpoint_slots = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.warmup = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"serving {args.model} at {server.listening_address}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if args.until_eof:
        sys.stdin.read()
        os._exit(0)  # its threads wait for nobody
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
