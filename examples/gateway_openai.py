"""OpenAI's own Python client at a gateway: any model of any server behind it, plain, streamed, its history kept.

    pip install openai
    python examples/gateway_openai.py --url http://127.0.0.1:8000 --model MODEL

A token, where the gateway wants one, comes from the environment: FASTSERVE_API_KEY.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid

import openai


def plain(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=16)
    answer = raw.parse()
    print(answer.choices[0].message.content)
    print(f"-- {answer.usage.completion_tokens} tokens by {raw.headers.get('x-upstream', 'some server')}")


def streamed(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "Tell me a story"}]
    with client.chat.completions.create(model=model, messages=messages, max_tokens=32, stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    print("\n-- streamed")


def conversation(client: openai.OpenAI, model: str) -> None:
    """Each request has the new turn alone: the gateway adds what was said before."""
    session = uuid.uuid4().hex  # who knows it has the conversation, so it is one that nobody guesses
    for text in ("My name is Ada.", "What is my name?"):
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=16, extra_body={"session_id": session}
        )
        print(raw.parse().choices[0].message.content)
        print(f"-- after {raw.headers['x-conversation-turns']} turns that the gateway kept")


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a gateway in three ways.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="one of those that are listed; by default the first")
    args = parser.parse_args()
    try:
        with openai.OpenAI(
            base_url=f"{args.url}/v1", api_key=os.environ.get("FASTSERVE_API_KEY", "none"), max_retries=0
        ) as client:
            models = [each.id for each in client.models.list()]
            print("-- models:", ", ".join(models))
            if not models:
                print("no model is served here yet", file=sys.stderr)
                return 1
            for ask in (plain, streamed, conversation):
                ask(client, args.model or models[0])
    except openai.APIStatusError as error:
        print(f"{error.status_code}: {error.message}", file=sys.stderr)
        return 1
    except openai.APIConnectionError as error:
        print(f"no answer from {args.url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
