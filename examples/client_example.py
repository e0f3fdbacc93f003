"""A client in Python: one plain request, one streamed, one asynchronous job.

    python examples/client_example.py --url http://127.0.0.1:8000 --prompt "Once upon a time"

A token, where the server wants one, comes from the environment: FASTSERVE_API_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import httpx


def plain(client: httpx.Client, prompt: str) -> None:
    answer = client.post("/generate", json={"prompt": prompt, "max_new_tokens": 32}).raise_for_status().json()
    print(answer["text"])
    print(
        f"-- {answer['tokens_generated']} tokens in {answer['generation_time']:.2f} s, "
        f"preempted {answer['preemption_count']} times"
    )


def streamed(client: httpx.Client, prompt: str) -> None:
    fields = {"prompt": prompt, "max_new_tokens": 32}
    with client.stream("POST", "/generate/stream", json=fields) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue  # a blank line, or a comment while the request waits
            event = json.loads(line.removeprefix("data:"))
            print(event["text"], end="", flush=True)
            if event["is_final"]:
                print(f"\n-- streamed; first token after {event['time_to_first_token']:.3f} s")


def job(client: httpx.Client, prompt: str) -> None:
    """Accepted means it will be done, even if the server is killed meanwhile."""
    accepted = client.post("/jobs", json={"prompt": prompt, "max_new_tokens": 32}).raise_for_status()
    where = accepted.headers["Location"]
    while (found := client.get(where).raise_for_status().json())["ended"] is None:
        time.sleep(0.1)
    print(f"-- job {found['job_id']} {found['state']}: {found['result']['tokens_generated']} tokens")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a FastServe server in three ways.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--prompt", default="Once upon a time")
    args = parser.parse_args()
    token = os.environ.get("FASTSERVE_API_KEY")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=args.url, headers=headers, timeout=600) as client:
            for ask in (plain, streamed, job):
                ask(client, args.prompt)
    except httpx.HTTPStatusError as error:
        error.response.read()
        print(f"{error.response.status_code}: {error.response.text}", file=sys.stderr)
        return 1
    except httpx.HTTPError as error:
        print(f"no answer from {args.url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
