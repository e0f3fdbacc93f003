"""Request bodies of OpenAI's routes, with vLLM's fields. What they ask for beyond it is in openai_refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from fastserve.engine import SamplingParams
from fastserve.sched.checks import unknown
from fastserve.server.api.errors import MAX_FAULTS
from fastserve.server.api.fields import (
    FirstFault,
    ModelName,
    Name,
    Prompt,
    Stop,
    Text,
    Token,
    Word,
    expecting,
)
from fastserve.server.api.openai_messages import Conversation, Messages, result_of
from fastserve.server.api.openai_refused import LEAVE_OUT, TO_FORM
from fastserve.server.api.scheduled import Scheduled
from fastserve.server.api.tokenization import Cut
from fastserve.server.config.ranges import Tokens

MAX_CHOICES = 128
MAX_WORDS = 256
"""Choices, and words that are not to be said, of a request."""
MAX_TOKEN_IDS = 1 << 18
"""Of a list that stands for a part of the vocabulary."""

MAX_WORD_CHARACTERS = 1 << 14
"""Of all of them together: each is tokenized up to four times."""


def _few_characters(words: list[str]) -> list[str]:
    size = sum(map(len, words))
    if size > MAX_WORD_CHARACTERS:
        raise ValueError(f"they have {size:,} characters in all; send at most {MAX_WORD_CHARACTERS:,}")
    return words


TokenIds = Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKEN_IDS), FirstFault()]
Few = AfterValidator(_few_characters)
Choice = Annotated[list[Word], Field(min_length=1, max_length=MAX_WORDS), FirstFault(), Few]
Bias = Annotated[float, Field(ge=-100, le=100)]
BIASES: TypeAdapter[dict[int, float]] = TypeAdapter(dict[Token, Bias])


def _first_wrong(value: Any) -> Any:
    """Of a large mapping with a wrong entry that entry alone: pydantic would make an error of 1 KB for each of them."""
    if isinstance(value, dict) and len(value) > MAX_FAULTS:
        for name, bias in value.items():
            try:
                BIASES.validate_python({name: bias})
            except ValidationError:
                return {name: bias}
    return value


class StreamOptions(BaseModel):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


FORMS = ("json", "regex", "grammar", "json_object", "structural_tag")
HOW = ("disable_fallback", "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")
"""vLLM's fields of structured_outputs, beside choice: other kinds of it, and what matters to those alone."""


class StructuredOutputs(BaseModel):
    """What the output has to be: one of these texts. Kinds that this server cannot do are among the extra fields."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    choice: Choice | None = None

    @model_validator(mode="after")
    def _choice_only(self) -> StructuredOutputs:
        for name, value in (self.model_extra or {}).items():
            if name in FORMS and value:
                raise ValueError(f"{name}: {TO_FORM}; {LEAVE_OUT}")
            if name not in (*FORMS, *HOW):  # an unknown constraint must not be dropped
                raise ValueError(unknown("it has no field", name[:100], ("choice",)))
        return self


class Generation(Scheduled):
    """Fields of both completions and chat. Null means not given."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

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
    logit_bias: Annotated[
        Annotated[dict[Token, Bias], Field(max_length=MAX_TOKEN_IDS)] | None, BeforeValidator(_first_wrong)
    ] = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[Word], Field(max_length=MAX_WORDS), FirstFault(), Few] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_choice: Choice | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[Literal[-1] | Tokens, expecting("-1, or a whole number of at least 1")] | None = (
        None
    )
    truncation_side: Literal["left", "right"] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    def cut(self, output: int) -> Cut | None:
        """How the prompt is cut to fit. output: tokens that are wanted where max_tokens is not given."""
        if self.truncate_prompt_tokens is None:
            return None
        return Cut(self.truncate_prompt_tokens, self.truncation_side != "right", self.max_tokens or output)

    @model_validator(mode="after")
    def _one_choice(self) -> Generation:
        if self.guided_choice and self.structured_outputs and self.structured_outputs.choice:
            raise ValueError("guided_choice and structured_outputs with choice are the same; give one of them")
        return self

    @property
    def constrains(self) -> bool:
        """Whether it says what the output may be: then it takes some milliseconds to prepare."""
        lists = (self.allowed_token_ids, self.logit_bias, self.bad_words, self.guided_choice, self.structured_outputs)
        return any(lists)

    def params(self, output_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """Of the first choice. Raises ValueError for a value out of range."""
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
            seed=self.seed,
            stop=self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            include_stop=bool(self.include_stop_str_in_output),
            ignore_eos=bool(self.ignore_eos),
            skip_special_tokens=self.skip_special_tokens is not False,
            allowed_token_ids=self.allowed_token_ids,
            logit_bias=self.logit_bias or (),
            bad_words=self.bad_words or (),
            choices=self.guided_choice or (self.structured_outputs and self.structured_outputs.choice) or (),
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


class ChatCompletionRequest(Generation, Conversation):
    messages: Messages
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def brings(self) -> str:
        return result_of(self.messages)

    @model_validator(mode="after")
    def _together(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self


class TokenizeRequest(Conversation):
    """A text, or the messages of a chat."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    model: ModelName | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())
    model: ModelName | None = None
    tokens: Annotated[list[int], FirstFault()]
