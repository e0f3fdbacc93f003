"""Response bodies of OpenAI's routes (not streamed), for the OpenAPI schema."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from fastserve.server.api.native_schema import ModelCard, Usage


class PromptDetails(TypedDict):
    cached_tokens: int


class OpenAIUsage(Usage):
    prompt_tokens_details: NotRequired[PromptDetails]


class Logprobs(TypedDict):
    """Of completions: parallel lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Choice(TypedDict):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: OpenAIUsage


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage


class ModelCards(TypedDict):
    object: str
    data: list[ModelCard]
