"""Try a server from the shell, one call at a time.

    python examples/simple_tester.py --url http://127.0.0.1:8000 send-text "Hello"
    python examples/simple_tester.py --url http://127.0.0.1:8000 generate "Hello" --max-new-tokens 20 --stream
    python examples/simple_tester.py --url http://127.0.0.1:8000 {health-check,tasks}
    python examples/simple_tester.py --url http://127.0.0.1:8000 get-task-status TASK_ID

Exits 0 when the server answered well, 1 when it refused or did not answer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import httpx


def send_text(client: httpx.Client, args: argparse.Namespace) -> Any:
    return client.post("/send_text", json={"prompt": args.prompt}).raise_for_status().json()


def generate(client: httpx.Client, args: argparse.Namespace) -> Any:
    fields = {"prompt": args.prompt, "max_new_tokens": args.max_new_tokens}
    if not args.stream:
        return client.post("/generate", json=fields).raise_for_status().json()
    event: Any = None
    with client.stream("POST", "/generate/stream", json=fields) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                print(event["text"], end="", flush=True)
    print()
    return event


def health_check(client: httpx.Client, args: argparse.Namespace) -> Any:
    return client.get("/health_check").raise_for_status().json()


def tasks(client: httpx.Client, args: argparse.Namespace) -> Any:
    return client.get("/tasks/").raise_for_status().json()


def get_task_status(client: httpx.Client, args: argparse.Namespace) -> Any:
    return client.get(f"/get_task_status/{args.task_id}").raise_for_status().json()


COMMANDS = {
    "send-text": send_text,
    "generate": generate,
    "health-check": health_check,
    "tasks": tasks,
    "get-task-status": get_task_status,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Try a FastServe server, one call at a time.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        own = commands.add_parser(name)
        if name in ("send-text", "generate"):
            own.add_argument("prompt")
        if name == "generate":
            own.add_argument("--max-new-tokens", type=int, default=32)
            own.add_argument("--stream", action="store_true")
        if name == "get-task-status":
            own.add_argument("task_id")
    args = parser.parse_args()
    token = os.environ.get("FASTSERVE_API_KEY")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=args.url, headers=headers, timeout=600) as client:
            print(json.dumps(COMMANDS[args.command](client, args), indent=2))
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
