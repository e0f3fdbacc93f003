"""Acceptance tests with third-party clients against a server process: the openai package, and if they are installed
langchain-openai, litellm, the llm command line and aiperf.

    make acceptance            # installs them into build/acceptance and runs this with that Python

--server is the Python that runs `fastserve serve`. Exits 0 when every check held.
"""

# ruff: noqa: PT017, PT018 (checks of a script that pytest never sees)
from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai

MODEL = "embedded"
REPLAYED = 9
"""Rows of the trace: from ten on, aiperf 0.13 takes a tokenizer's folder for a repository's name and fails offline."""

MESSAGES: Any = [{"role": "user", "content": "Tell me something."}]


def main() -> int:
    parser = argparse.ArgumentParser(description="OpenAI's own package and others against `fastserve serve`.")
    parser.add_argument("--server", default=sys.executable, help="Python that has fastserve and its server extra")
    parser.add_argument("--only", choices=("openai", "aiperf"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(args.server, Path(folder)) as base:
        checks: list[Callable[[str], None]] = []
        if args.only != "aiperf":
            checks += [models, completion, streamed, chat, asynchronous, errors, token_ids, documentation]
            checks += [constrained, base_url_without_v1, once_only]
            for name, check in {"langchain_openai": langchain, "litellm": litellm, "llm": llm_command}.items():
                if importlib.util.find_spec(name):
                    checks.append(check)
                else:
                    print(f"{name} is not installed beside this Python: its check is left out")
        if args.only != "openai":
            if shutil.which("aiperf", path=str(Path(sys.executable).parent)):
                checks += [aiperf_completions, aiperf_chat, aiperf_replay]
            else:
                print("aiperf is not installed beside this Python: its checks are left out")
        for check in checks:
            began = time.monotonic()
            check(base)
            print(f"ok  {check.__name__:20} {time.monotonic() - began:.1f} s", flush=True)
    return 0


@contextlib.contextmanager
def serving(python: str, state: Path) -> Iterator[str]:
    command = [python, "-m", "fastserve", "serve", "--model", MODEL, "--port", "0", "--state-dir", str(state)]
    command += ["--api-key", "sesame"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="")
            if found := re.search(r"serving at (http://\S+)", line):
                yield found[1]
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait(60)


def client_of(base: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base}/v1", api_key="sesame", max_retries=0)


# -- the openai package ------------------------------------------------------------------------------------------------


def models(base: str) -> None:
    assert [model.id for model in client_of(base).models.list()] == [MODEL]


def completion(base: str) -> None:
    answer = client_of(base).completions.create(
        model=MODEL, prompt=["One", "Two"], max_tokens=12, n=2, seed=1, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None and answer.usage.completion_tokens <= 48
    first = answer.choices[0].logprobs
    assert first is not None and first.tokens is not None and "".join(first.tokens) == answer.choices[0].text


def streamed(base: str) -> None:
    asked: Any = {"stream_options": {"include_usage": True}, "extra_body": {"ignore_eos": True}, "max_tokens": 20}
    told = list(client_of(base).completions.create(model=MODEL, prompt="One", stream=True, **asked))
    *tokens, last = told
    assert len(tokens) == 20 and all(len(chunk.choices[0].text) == 1 for chunk in tokens)
    assert tokens[-1].choices[0].finish_reason == "length"
    assert last.usage is not None and last.usage.completion_tokens == 20 and not last.choices


def chat(base: str) -> None:
    client = client_of(base)
    fields: Any = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 15, "seed": 3}
    whole = client.chat.completions.create(**fields)
    text = whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant" and text
    parts = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**fields, stream=True)]
    assert "".join(parts) == text


def asynchronous(base: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="sesame", max_retries=0) as client:

            async def one(number: int) -> int:
                stream: Any = await client.chat.completions.create(
                    model=MODEL, messages=MESSAGES, max_tokens=10 + number, stream=True, extra_body={"ignore_eos": True}
                )
                return sum([bool(chunk.choices[0].delta.content) async for chunk in stream])

            assert await asyncio.gather(*[one(number) for number in range(12)]) == [10 + number for number in range(12)]

    asyncio.run(ask())


def errors(base: str) -> None:
    client = client_of(base)
    for expected, fields in (
        (openai.NotFoundError, {"model": "gpt-9", "prompt": "a"}),
        (openai.BadRequestError, {"model": MODEL, "prompt": "a", "max_tokens": 1_000_000}),
        (openai.BadRequestError, {"model": MODEL, "prompt": "a", "suffix": "b"}),
    ):
        try:
            client.completions.create(**fields)  # type: ignore[call-overload]
        except expected as error:
            assert isinstance(error.body, dict) and error.body["message"]
        else:
            raise AssertionError(f"{fields} was not refused")
    try:
        openai.OpenAI(base_url=f"{base}/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        return
    raise AssertionError("a wrong token was taken")


def token_ids(base: str) -> None:
    answer = client_of(base).completions.create(
        model=MODEL, prompt=[[72, 105], [72]], max_tokens=4, extra_body={"ignore_eos": True, "priority": 1}, user="me",
        extra_headers={"X-Request-Id": "mine"},
    )  # fmt: skip
    assert answer.usage is not None and answer.usage.prompt_tokens == 3 and answer.usage.completion_tokens == 8


def documentation(base: str) -> None:
    """What docs/serving.md shows of this package, run as it stands but for the server's place and token."""
    page = Path(__file__).parents[1].joinpath("docs", "serving.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "import openai" in text]
    block = block.replace("http://127.0.0.1:8000", base).replace('api_key="none"', 'api_key="sesame"')
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def constrained(base: str) -> None:
    """vLLM's fields, by extra_body."""
    client = client_of(base)
    for more in ({"structured_outputs": {"choice": ["yes", "no"]}}, {"guided_choice": ["yes", "no"]}):
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=more)
        assert answer.choices[0].message.content in ("yes", "no") and answer.choices[0].finish_reason == "stop"
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5, logit_bias={"120": 100})
    assert answer.choices[0].message.content == "xxxxx"
    for field in ("response_format", "tools"):
        wanted: Any = {"type": "json_object"} if field == "response_format" else [{"type": "function", "function": {}}]
        try:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, **{field: wanted})
        except openai.BadRequestError as error:
            assert error.param == field
        else:
            raise AssertionError(f"{field} was not refused")


def base_url_without_v1(base: str) -> None:
    client = openai.OpenAI(base_url=base, api_key="sesame", max_retries=0)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3).choices[0].message.content
    try:
        client.embeddings.create(model=MODEL, input="a")
    except openai.NotFoundError as error:
        assert "embeddings" in error.message
    else:
        raise AssertionError("embeddings were not refused")


def once_only(base: str) -> None:
    """A cancelled request is not started again by a client that would repeat it."""
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="sesame", max_retries=2)
    jobs = {"url": f"{base}/jobs", "headers": {"Authorization": "Bearer sesame"}}

    def mine() -> list[dict[str, Any]]:
        found = urllib.request.urlopen(urllib.request.Request(**jobs), timeout=30)  # type: ignore[arg-type]
        return [job for job in json.load(found)["jobs"] if job["metadata"] == {} and job["kind"] == "chat completion"]

    before = {job["job_id"] for job in mine()}
    caught: list[Exception] = []

    def ask() -> None:
        try:
            client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=3000, extra_body={"ignore_eos": True}
            )
        except openai.APIStatusError as error:
            caught.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    while caller.is_alive():
        for job in mine():
            if job["job_id"] not in before and job["state"] in ("queued", "running", "preempted"):
                url = f"{jobs['url']}/{job['job_id']}"
                urllib.request.urlopen(
                    urllib.request.Request(url, headers=jobs["headers"], method="DELETE"),  # type: ignore[arg-type]
                    timeout=30,
                )
        caller.join(0.02)
    assert len(caught) == 1 and isinstance(caught[0], openai.ConflictError)
    assert len({job["job_id"] for job in mine()} - before) == 1, "one call, one job"


def langchain(base: str) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=f"{base}/v1", api_key="sesame", max_tokens=8, seed=1)  # type: ignore[arg-type]
    history = [SystemMessage("Be brief"), HumanMessage("Hi"), AIMessage("Yes?"), HumanMessage("Go on")]
    whole = model.invoke(history).content
    assert whole and "".join([str(chunk.content) for chunk in model.stream(history)]) == whole
    try:
        model.invoke("x" * 9000)
    except Exception as error:
        assert type(error).__name__ == "OpenAIContextOverflowError", type(error)
    else:
        raise AssertionError("a prompt of 9000 tokens was taken")


def litellm(base: str) -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it looks for prices elsewhere otherwise
    import litellm as library

    library.suppress_debug_info = True
    fields: Any = {
        "model": f"openai/{MODEL}",
        "api_base": f"{base}/v1",
        "api_key": "sesame",
        "seed": 1,
        "max_tokens": 8,
    }
    whole = library.completion(messages=MESSAGES, **fields).choices[0].message.content
    parts = library.completion(messages=MESSAGES, stream=True, **fields)
    assert whole and "".join([part.choices[0].delta.content or "" for part in parts]) == whole
    try:
        library.completion(messages=[{"role": "user", "content": "x" * 9000}], **fields)
    except library.ContextWindowExceededError:
        return
    raise AssertionError("a prompt of 9000 tokens was taken")


def llm_command(base: str) -> None:
    """Simon Willison's command line, which keeps a conversation."""
    with tempfile.TemporaryDirectory() as folder:
        model = {"model_id": "here", "model_name": MODEL, "api_base": f"{base}/v1", "api_key_name": "here"}
        Path(folder, "keys.json").write_text(json.dumps({"here": "sesame"}))
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps([model]))
        environment = {**os.environ, "LLM_USER_PATH": folder}
        command = [sys.executable, "-m", "llm", "-m", "here", "-o", "max_tokens", "8"]
        for words in (["Hi"], ["-s", "Be brief", "--no-stream", "Hi"], ["-c", "Go on"]):
            done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0 and done.stdout.strip(), done.stderr


# -- aiperf ------------------------------------------------------------------------------------------------------------


def aiperf(base: str, endpoint: str, count: int, tokens: int | None, *flags: str) -> None:
    """One profile run; every request must complete, with exact output lengths where `tokens` says them."""
    with tempfile.TemporaryDirectory() as folder:
        words = (
            f"-m {MODEL} -u {base} --endpoint-type {endpoint} --streaming --api-key sesame --ui none --random-seed 3"
        )
        command = [str(Path(sys.executable).with_name("aiperf")), "profile", *words.split()]
        command += ["--tokenizer", str(tokenizer(Path(folder))), "--artifact-dir", f"{folder}/out", *flags]
        command += ["--extra-inputs", "ignore_eos:true", "--use-server-token-count"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        rows = [json.loads(line) for line in Path(folder, "out", "profile_export.jsonl").read_text().splitlines()]
        failed = [row for row in rows if row.get("error")]
        assert not failed and len(rows) == count, (len(rows), failed[:1])
        if tokens is not None:
            lengths = [row["metrics"]["output_sequence_length"]["value"] for row in rows]
            assert lengths == [tokens] * count, lengths


def tokenizer(folder: Path) -> Path:
    """Byte-level, as the embedded model's: one ASCII character is one token. Made here, for aiperf is offline."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "<eos>"])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    where = folder / "tokenizer"
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    fast.save_pretrained(where)
    return where


def aiperf_completions(base: str) -> None:
    shape = "--request-rate 20 --arrival-pattern poisson --request-count 20"
    lengths = "--synthetic-input-tokens-mean 32 --synthetic-input-tokens-stddev 0"
    lengths += " --output-tokens-mean 16 --output-tokens-stddev 0"
    aiperf(base, "completions", 20, 16, *shape.split(), *lengths.split())


def aiperf_chat(base: str) -> None:
    shape = "--concurrency 4 --request-count 12 --synthetic-input-tokens-mean 24 --synthetic-input-tokens-stddev 0"
    aiperf(base, "chat", 12, 10, *shape.split(), "--output-tokens-mean", "10", "--output-tokens-stddev", "0")


def aiperf_replay(base: str) -> None:
    """A trace in Mooncake's format on its own schedule."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.jsonl")
        rows = [
            {"timestamp": 200 * row, "input_length": 24 + row, "output_length": 8, "hash_ids": [row * 2, row * 2 + 1]}
            for row in range(REPLAYED)
        ]
        trace.write_text("".join([json.dumps(row) + "\n" for row in rows]))
        kind = "--custom-dataset-type mooncake-trace --isl-block-size 16 --fixed-schedule"
        aiperf(base, "completions", REPLAYED, 8, "--input-file", str(trace), *kind.split())


if __name__ == "__main__":
    sys.exit(main())
