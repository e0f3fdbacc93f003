"""What is asked of each upstream and how its answers are read, and how it is found out what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastserve.backends.upstream.api import Over, Said
from fastserve.backends.upstream.connection import LONGEST_LINE, Address, UpstreamError, said
from fastserve.backends.upstream.llama_server import LlamaReader
from fastserve.backends.upstream.ollama import OllamaReader
from fastserve.backends.upstream.openai import OpenAiReader
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.ollama_api import parameters
from tests.backends.upstream.stub import SYSTEM, Handler, Stub, answer_to, rendered

APIS = ("llama", "vllm", "openai", "ollama")
CHAT = [{"role": "user", "content": "hello"}]
SOON_S = 60.0


@pytest.fixture(params=APIS)
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    found = Stub(request.param)
    yield found
    found.stop()


@contextmanager
def front(stub: Stub, model: str | None = "tiny", **options: Any) -> Iterator[Engine]:
    serving = EngineConfig.of({"policy": "fcfs", "max_batch": options.pop("max_batch", 64)})
    with Body(model, "upstream", **{"upstream": stub.url, **options}).engine(serving) as engine:
        yield engine


def test_what_it_says_of_itself(stub: Stub) -> None:
    slots, context, name = {
        "llama": (4, 96, "llama.cpp"), "vllm": (64, 96, "vllm"), "openai": (64, 4096, "openai"),
        "ollama": (1, 96, "ollama"),
    }[stub.api]  # fmt: skip
    with front(stub) as engine:
        found = (engine.serving.max_batch, engine.max_model_len, engine.hardware.memory.device_blocks)
        assert found == (slots, context, slots), "a block is a place"
        assert engine.settings["upstream_api"] == name and engine.settings["residency"] == "recompute"
        assert engine.settings["tokens"] == "estimated" and engine.estimates
        usual = {"llama": 0.5, "ollama": 0.3}.get(stub.api)
        assert engine.info.defaults.get("temperature") == usual
    with front(stub, upstream_slots=9, max_model_len=50, max_batch=7) as engine:
        assert (engine.serving.max_batch, engine.max_model_len) == (7, 50)
    with front(stub, upstream_slots=2) as engine:
        assert engine.serving.max_batch == 2


def test_our_own_server_says_what_its_model_samples_by() -> None:
    stub = Stub("fastserve")
    try:
        with front(stub) as engine:
            engine.generate("once", SamplingParams(max_tokens=1))
            engine.generate("once", SamplingParams(max_tokens=1, temperature=0.9))
        assert [body["temperature"] for _, body in stub.asked] == [0.2, 0.9]
    finally:
        stub.stop()


def test_sampling_goes_by_its_own_names(stub: Stub) -> None:
    extended = stub.api == "vllm"
    given: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5, "seed": 5, "max_tokens": 6}
    if stub.api != "openai":
        given |= {"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2}
    if extended:
        given |= {"min_tokens": 2, "stop_token_ids": [299], "skip_special_tokens": False}
    if stub.api in ("llama", "vllm"):
        given |= {"ignore_eos": True}
    with front(stub) as engine:
        engine.generate("hi", SamplingParams(**given))
    _, body = stub.asked[0]
    options = body.get("options", body)
    assert (options["temperature"], options["top_p"], options["presence_penalty"]) == (0.7, 0.9, 0.5)
    assert "frequency_penalty" not in options and options["seed"] == 5
    names = {"llama": "n_predict", "ollama": "num_predict"}
    assert options[names.get(stub.api, "max_tokens")] == 6 and body["stream"] is True
    if stub.api != "openai":
        penalty = "repetition_penalty" if extended else "repeat_penalty"
        assert (options["top_k"], options["min_p"], options[penalty]) == (7, 0.1, 1.2)
    else:
        assert not {"top_k", "min_p", "repetition_penalty", "ignore_eos", "min_tokens"} & body.keys()
    if extended:
        assert (body["min_tokens"], body["stop_token_ids"], body["skip_special_tokens"]) == (2, [299], False)
    if stub.api in ("llama", "vllm"):
        assert body["ignore_eos"] is True
    if stub.api == "llama":
        assert body["repeat_last_n"] == -1


LOST: dict[str, dict[str, Any]] = {
    "llama": {"min_tokens": 1, "stop_token_ids": [5], "skip_special_tokens": False, "logprobs": 1},
    "vllm": {"logprobs": 0},
    "openai": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 1,
               "stop_after": 3, "logprobs": 0},
    "ollama": {"ignore_eos": True, "min_tokens": 1, "stop_after": 3, "stop_token_ids": [5], "logprobs": 2},
}  # fmt: skip


def test_what_cannot_be_passed_on_is_refused_by_name(stub: Stub) -> None:
    with front(stub) as engine:
        for name, value in LOST[stub.api].items():
            with pytest.raises(ValueError, match=f"backend upstream cannot keep to {name} here; leave it out"):
                engine.submit("hi", SamplingParams(**{name: value, "max_tokens": 8}))
        with pytest.raises(ValueError, match="cannot constrain an output"):
            engine.submit("hi", SamplingParams(logit_bias={5: 1.0}))
        assert engine.generate("hi", SamplingParams(top_k=-1, top_p=1.0, max_tokens=2))[0].error is None
    assert len(stub.asked) == 1


def test_stop_strings_are_cut_here(stub: Stub) -> None:
    """No API has the same rules for them; the stream is closed when one is there."""
    text = answer_to(b"hi", 40)
    stop = text[10:13]
    with front(stub, max_model_len=90) as engine:
        params = SamplingParams(max_tokens=40, temperature=0.0, stop=[stop])
        output = engine.generate("hi", params)[0]
        assert (output.text, output.finish_reason) == (text[:10], "stop")
    assert "stop" not in stub.asked[0][1] and "stop" not in stub.asked[0][1].get("options", {})


def test_an_end_of_its_own(stub: Stub) -> None:
    text = answer_to(b"hi", 12)
    stub.ends = text[8].encode()
    want = text[: text.index(text[8])]
    with front(stub) as engine:
        output = engine.generate("hi", SamplingParams(max_tokens=40, temperature=0.0))[0]
    assert (output.text, output.finish_reason) == (want, "stop")
    assert output.counted == (2, len(want)) and len(output.token_ids) == len(want)


@pytest.mark.parametrize("tokens", [1, 12])
def test_a_chat_goes_by_the_upstreams_template(stub: Stub, tokens: int) -> None:
    with front(stub) as engine:
        prompt = engine.tokenizer.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=True)
        output = engine.generate(prompt, SamplingParams(max_tokens=tokens, temperature=0.0))[0]
    assert output.text == answer_to(rendered(CHAT).encode(), tokens)
    assert output.counted == (len(rendered(CHAT)), tokens)
    path, body = stub.asked[0]
    if stub.api in ("openai", "ollama"):
        assert path == ("/v1/chat/completions" if stub.api == "openai" else "/api/chat") and body["messages"] == CHAT
    else:
        assert "messages" not in body and SYSTEM.encode() in Handler.prompt_of(None, body)  # type: ignore[arg-type]


def test_a_chat_that_is_broken_goes_on(stub: Stub) -> None:
    """With what was answered as the end of the prompt, or as a last message to be continued."""

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        if number:
            return False
        handler.begin()
        handler.complete(body, 5, whole=False)
        handler.drop()
        return True

    stub.hook = hook
    with front(stub) as engine:
        prompt = engine.tokenizer.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=True)
        output = engine.generate(prompt, SamplingParams(max_tokens=12, temperature=0.0))[0]
    said = answer_to(rendered(CHAT).encode(), 5)
    again = stub.asked[1][1]
    if stub.api in ("openai", "ollama"):
        assert again["messages"] == [*CHAT, {"role": "assistant", "content": said}]
        assert str(output.text).startswith(said) and len(output.token_ids) == 12
    else:
        assert output.text == answer_to(rendered(CHAT).encode(), 12)


def test_models_are_chosen_by_name() -> None:
    stub = Stub("openai")
    try:
        for model, words in ((None, "has 2 models: tiny, other; name one as --model"), ("big", "it has tiny, other")):
            with pytest.raises(ValueError, match=words), front(stub, model):
                pass
        with front(stub, "other") as engine:
            engine.generate("x", SamplingParams(max_tokens=1))
            assert engine.info.name == "other"
        assert stub.asked[0][1]["model"] == "other"
    finally:
        stub.stop()


def test_what_is_no_upstream(stub: Stub) -> None:
    with pytest.raises(ValueError, match="backend upstream needs to know where: give upstream"):
        Body("tiny", "upstream").engine(EngineConfig.of({"policy": "fcfs"}))
    for url, words in {
        "ftp://x": "no address of a server", "http://": "no address", "http://h:99999": "Port out of range",
        "http://h/?a=b": "no address",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Address(url)
    assert Address("http://h:80/v1/").url == "http://h:80" and Address("h:81/a").prefix == "/a"
    if stub.api == "openai":
        with pytest.raises(ValueError, match=r"HTTP 404: no such route"), front(stub, upstream_api="ollama"):
            pass


# -- readers -----------------------------------------------------------------------------------------------------------


def test_llama_says_how_many_tokens_a_character_had() -> None:
    """Half a character is held back there, and of its tokens only the last one's id is told."""
    reader = LlamaReader()
    events = [
        b'data: {"content":"a","tokens":[7],"stop":false,"tokens_predicted":1,"tokens_evaluated":3}',
        'data: {"content":"😀","tokens":[218],"stop":false,"tokens_predicted":4,"tokens_evaluated":3}'.encode(),
        b'data: {"content":"","tokens":[],"stop":true,"stop_type":"eos","tokens_predicted":5,"tokens_evaluated":3}',
    ]
    assert [list(reader.read(line)) for line in events] == [
        [Said("a", [7], 1, 3)], [Said("😀", None, 3, 3)], [Over("stop", 3, 5)],
    ]  # fmt: skip


def test_thoughts_come_back_between_tags() -> None:
    reader = OllamaReader()
    lines = [
        b'{"message":{"thinking":"hm"}}',
        b'{"message":{"thinking":" so"}}',
        b'{"message":{"content":"Yes"}}',
        b"\n",
    ]
    assert [one.text for line in lines for one in reader.read(line) if isinstance(one, Said)] == [
        "<think>hm", " so", "</think>Yes",
    ]  # fmt: skip
    delta = b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}'
    assert OpenAiReader().read(delta) == [Said("<think>hm")]


def test_openai_reader_reads_usage_wherever_it_is() -> None:
    reader = OpenAiReader()
    first = {"index": 0, "text": "ab", "token_ids": [1, 2], "prompt_token_ids": [9]}
    last = {"index": 0, "text": "", "finish_reason": "length"}
    events: list[dict[str, Any]] = [
        {"choices": [first], "usage": {"prompt_tokens": 1}},
        {"choices": [{"index": 1, "text": "another choice"}]},
        {"choices": [last], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    ]
    lines = [f"data: {json.dumps(event)}".encode() for event in events]
    lines += [b"data: [DONE]", b": comment", b"event: x", b""]
    found = [one for line in lines for one in reader.read(line)]
    assert found == [Said("ab", [1, 2], 2, 1, [9]), Over("length"), Over("", 1, 2)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"error": {"message": "one"}}, "one"),
        ({"error": "two"}, "two"),
        ({"detail": [{"msg": "x"}]}, '[{"msg": "x"}]'),
        ('{"message": "three"}', "three"),
        ("a  page\nof <html>", "a page of <html>"),
        ({"error": {"error": {"message": "deep"}}}, "deep"),
    ],
)
def test_errors_are_told_in_their_words(found: Any, words: str) -> None:
    assert said(found) == words
    assert LONGEST_LINE >= 1 << 16


def test_errors_within_llama_streams() -> None:
    with pytest.raises(UpstreamError, match="slot gone"):
        LlamaReader().read(b'error: {"code":500,"message":"slot gone"}')


def test_parameters_of_ollama() -> None:
    assert parameters('temperature 0.6\nstop "<|x|>"\n  num_ctx   8192 ') == {"temperature": 0.6, "num_ctx": 8192.0}
