"""Ollama's own Python client at a gateway, in front of servers of any kind.

    pip install ollama
    python examples/gateway_ollama.py --url http://127.0.0.1:8000 --model MODEL

A token, where the gateway wants one, comes from the environment: FASTSERVE_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import sys

import ollama


def chat(client: ollama.Client, model: str) -> None:
    for part in client.chat(model, [{"role": "user", "content": "Hello"}], stream=True, options={"num_predict": 32}):
        print(part.message.content, end="", flush=True)
    print(f"\n-- {part.eval_count} tokens, {1e9 * part.eval_count / max(part.eval_duration, 1):.1f} a second")


def generate(client: ollama.Client, model: str) -> None:
    answer = client.generate(model, "Why is the sky blue?", system="Be brief.", options={"num_predict": 16, "seed": 1})
    print(answer.response)
    print(f"-- {answer.done_reason} after {answer.total_duration / 1e9:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a gateway as one would ask Ollama.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="one of those that are listed; by default the first")
    parser.add_argument("--pull", metavar="OWNER/NAME", help="download this model first (a gateway with --models-dir)")
    args = parser.parse_args()
    token = os.environ.get("FASTSERVE_API_KEY")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with ollama.Client(args.url, headers=headers) as client:
            if args.pull:
                for step in client.pull(args.pull, stream=True):
                    print(f"\r{step.status} {step.completed or 0:,} of {step.total or 0:,} bytes", end="", flush=True)
                print()
            models = [each.model for each in client.list().models]
            print("-- models:", ", ".join(models))
            if not models:
                print("no model is served here yet", file=sys.stderr)
                return 1
            model = args.model or args.pull or models[0]
            chat(client, model)
            generate(client, model)
            print("-- in memory:", ", ".join(each.model for each in client.ps().models))
    except ollama.ResponseError as error:
        print(f"{error.status_code}: {error.error}", file=sys.stderr)
        return 1
    except ConnectionError:
        print(f"no answer from {args.url}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
