"""Request bodies of OpenAI's routes. Unknown fields are ignored; known but unsupported ones are refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fastserve.engine import SamplingParams
from fastserve.server.api.fields import (
    FirstFault,
    ModelName,
    Name,
    Prompt,
    Scheduled,
    Stop,
    Text,
    Token,
    Tokens,
    expecting,
)

MAX_CHOICES = 128
UNSUPPORTED = ("tools", "functions", "logit_bias", "suffix", "echo")
"""Unsupported fields: refused unless null, false or empty."""


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Generation(Scheduled):
    """Fields of both completions and chat. Null means not given."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: ModelName | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=1024), FirstFault()] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    user: Name | None = None
    stop_after: Tokens | None = None
    guess: Tokens | None = None
    tools: Any = None
    functions: Any = None
    logit_bias: Any = None
    response_format: Any = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @field_validator(*UNSUPPORTED, check_fields=False)
    @classmethod
    def _unsupported(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server does not support it; leave it out")
        return value

    @field_validator("response_format")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        if value is not None and (not isinstance(value, dict) or value.get("type", "text") != "text"):
            raise ValueError("this server supports text only; leave it out")
        return value

    def params(self, output_tokens: int | None, choice: int, logprobs: int | None) -> SamplingParams:
        """Of one choice: its seed is the request's plus its index. Raises ValueError for a value out of range."""
        return SamplingParams(
            max_tokens=output_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=None if self.seed is None else self.seed + choice,
            stop=self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            stop_after=self.stop_after,
            guess=self.guess,
        )


class CompletionRequest(Generation):
    prompt: Annotated[
        Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_CHOICES), FirstFault()],
        expecting(f"text, a list of token ids, or a list of at most {MAX_CHOICES} of these; none of them empty"),
    ]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: Any = None
    echo: Any = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    @model_validator(mode="after")
    def _countable(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of > self.choices:
            raise ValueError("best_of above n is not supported by this server; leave it out")
        if len(self.prompts) * self.choices > MAX_CHOICES:
            raise ValueError(f"{len(self.prompts)} prompts with n={self.choices} are more than {MAX_CHOICES} choices")
        return self


class Part(BaseModel):
    type: str
    text: Text | None = None


class ChatMessage(BaseModel):
    """Other fields, such as name, are ignored. Several text parts are concatenated."""

    role: Text
    content: Annotated[
        Text | Annotated[list[Part], FirstFault()] | None, expecting("text, or a list of parts with a type")
    ] = None

    @property
    def text(self) -> str:
        content = self.content or ""
        return content if isinstance(content, str) else "".join([part.text or "" for part in content])

    @model_validator(mode="after")
    def _text_only(self) -> ChatMessage:
        if isinstance(self.content, list):
            for part in self.content:
                if part.type != "text":
                    raise ValueError(f"content of type {part.type} is not supported by this server; send text")
        return self


class ChatCompletionRequest(Generation):
    messages: Annotated[list[ChatMessage], Field(min_length=1), FirstFault()]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _together(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


class TokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    model: ModelName | None = None
    prompt: Text
    add_special_tokens: bool = True


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    model: ModelName | None = None
    tokens: Annotated[list[int], FirstFault()]
