"""Api: what differs between upstreams: what they say of themselves, how a completion is asked for, what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from fastserve.backends.upstream.connection import Connection, UpstreamError
from fastserve.backends.upstream.prompt import Prompt
from fastserve.backends.upstream.tokenizer import UpstreamTokenizer
from fastserve.engine.params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an upstream says of itself. None, 0: it does not say.

    model: by which it is asked. slots: requests that it serves at once; slots_why: where that comes from. context:
    tokens of a request. vocabulary: ids below it are tokens. defaults: of sampling, as a
    generation_config has them. about: what it is, for people.
    """

    model: str
    about: str
    slots: int | None = None
    slots_why: str = ""
    context: int | None = None
    vocabulary: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Said(NamedTuple):
    """Something of the output. ids: of all its tokens, where the upstream says them. tokens: how many; None: not said.

    prompt: tokens of the prompt, where it is said already. prompt_ids: the same as ids.
    """

    text: str
    ids: Sequence[int] | None = None
    tokens: int | None = None
    prompt: int | None = None
    prompt_ids: Sequence[int] | None = None


class Over(NamedTuple):
    """The output has ended. reason: stop or length; empty: it was only counted. prompt, output: tokens, if said."""

    reason: str
    prompt: int | None = None
    output: int | None = None


@dataclass(slots=True, eq=False)
class Ask:
    """A completion to be asked for. text, ids: what it has got so far, so that the upstream goes on with it (ids: None
    where some are not known). most: tokens that may still come. seed: of the draws from here on.
    """

    prompt: Prompt
    params: SamplingParams
    seed: int
    most: int
    text: str = ""
    ids: Sequence[int] | None = ()


class Reader(Protocol):
    """Reads one stream."""

    def read(self, line: bytes) -> Sequence[Said | Over]:
        """Raises UpstreamError for an error that it tells, and for what is not its format."""
        ...


class Api(Protocol):
    """Thread-safe. lacks: fields of SamplingParams that cannot be passed on, of those in MORE."""

    name: str

    @property
    def lacks(self) -> frozenset[str]: ...

    def facts(self, connection: Connection, model: str | None) -> Facts: ...
    def prepare(self, connection: Connection, ask: Ask) -> None:
        """Before a stream is opened: may ask the upstream to make a prompt of messages."""
        ...

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        """Path and body."""
        ...

    def reader(self, ask: Ask) -> Reader: ...
    def busy(self, connection: Connection) -> int | None:
        """Requests that it works on now; None: it does not say."""
        ...


MORE: Final = frozenset(
    ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "skip_special_tokens", "stop_after",
     "stop_token_ids", "logprobs")
)  # fmt: skip
"""Fields of SamplingParams that an API has to know beyond OpenAI's; stop strings are cut here, whatever it is."""


def chosen_model(model: str | None, there: Sequence[str], where: str) -> str:
    """model: as it is asked for; None: the only one that is there. Raises UpstreamError that lists them."""
    listed = ", ".join(there[:20]) or "none"
    if model is None:
        if len(there) == 1:
            return there[0]
        raise UpstreamError(f"{where} has {len(there)} models: {listed}; name one as --model")
    if there and model not in there and f"{model}:latest" not in there:
        raise UpstreamError(f"{where} has no model {model!r}; it has {listed}")
    return model


def with_answer(ask: Ask) -> list[dict[str, str]]:
    """The messages of a chat and what has been answered so far, as a last message that is to be continued."""
    messages = [dict(message) for message in ask.prompt.messages or ()]
    if not ask.text:
        return messages
    if ask.prompt.goes_on and messages:
        messages[-1]["content"] += ask.text
        return messages
    return [*messages, {"role": "assistant", "content": ask.text}]


def parts_of(ask: Ask) -> Prompt:
    """The prompt and what has come of it so far, as one."""
    if ask.ids is None:
        more: list[Any] = [ask.text] if ask.text else []
    else:
        more = [list(ask.ids)] if ask.ids else []
    return Prompt([*ask.prompt.parts, *more])


def text_of(ask: Ask, tokenizer: UpstreamTokenizer) -> str:
    """The same as text. What has come is taken as the text that came: its ids may be known and their texts not."""
    return ask.prompt.text(tokenizer) + ask.text


def common(params: SamplingParams) -> dict[str, Any]:
    """The sampling fields that every API knows by these names."""
    found: dict[str, Any] = {"temperature": params.temperature, "top_p": params.top_p}
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(params, name):
            found[name] = value
    return found
