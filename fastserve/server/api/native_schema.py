"""Request and response bodies of the native routes. The first name of a field is ours, the others are aliases."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from fastserve.engine import SamplingParams
from fastserve.server.api.fields import (
    FirstFault,
    Metadata,
    ModelName,
    Name,
    Prompt,
    Stop,
    Text,
    few_unknown,
)
from fastserve.server.api.scheduled import Scheduled
from fastserve.server.config.ranges import Tokens
from fastserve.server.config.settings import FastServeConfig


class Sampling(Scheduled):
    """Sampling fields of every native request; defaults come from the server's settings."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    max_new_tokens: Tokens | None = Field(
        None, validation_alias=AliasChoices("max_new_tokens", "max_tokens", "max_completion_tokens")
    )
    """maximum output tokens (100, or the server's setting)"""
    max_length: Tokens | None = None
    """maximum prompt and output tokens together, instead of max_new_tokens"""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """sampling temperature; 0 is greedy (0.7)"""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """nucleus sampling (0.9)"""
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    """sample from the k likeliest tokens; 0 or -1 is all (50)"""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    do_sample: bool = True
    """false is greedy, whatever the temperature"""
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    user: Name | None = None
    """client id, when the server has no bearer tokens"""
    ignore_eos: bool = False
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    """minimum output tokens: neither EOS nor stop strings end the output before"""
    stop_after: Tokens | None = None
    """end after exactly so many tokens, hidden from the scheduler: for replays of traces"""
    stop_sequences: Stop | None = Field(None, validation_alias=AliasChoices("stop_sequences", "stop"))
    stream: bool = False
    """respond with server-sent events, one a token"""
    return_token_ids: bool = False
    """each event of a stream has the id of its token, as token_ids"""
    model: ModelName | None = Field(None, validation_alias=AliasChoices("model", "model_name"))
    """one of /models; by default the loaded one"""
    metadata: Metadata = Field({})
    """returned unchanged"""

    @model_validator(mode="after")
    def _one_limit(self) -> Sampling:
        if self.max_length is not None and self.max_new_tokens is not None:
            raise ValueError("give max_new_tokens or max_length, not both")
        return self

    def params(
        self, config: FastServeConfig, output_tokens: int, lacks: frozenset[str] = frozenset()
    ) -> SamplingParams:
        """output_tokens: the limit, defaults resolved. lacks: fields that the backend does not keep to, for which the
        server's default is not asked. Raises ValueError for a value out of its range.
        """
        temperature = config.usual_temperature if self.temperature is None else self.temperature
        usual_top_k = None if "top_k" in lacks else config.top_k
        stop = self.stop_sequences or ()
        return SamplingParams(
            max_tokens=output_tokens,
            min_tokens=self.min_tokens,
            temperature=temperature if self.do_sample else 0.0,
            top_p=config.top_p if self.top_p is None else self.top_p,
            top_k=usual_top_k if self.top_k is None else max(0, self.top_k),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=stop,
            ignore_eos=self.ignore_eos,
            stop_after=self.stop_after,
            guess=self.guess,
        )


class GenerateRequest(Sampling):
    prompt: Prompt
    """text, or token ids"""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Text
    content: Text

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, fields: Any) -> Any:
        return few_unknown(fields, cls)[0]


class ChatRequest(Sampling):
    messages: Annotated[list[Message], Field(min_length=1), FirstFault()]


# -- responses ---------------------------------------------------------------------------------------------------------


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated: NotRequired[bool]


class Figures(TypedDict):
    """Timings and counts of a request. Times in seconds."""

    tokens_generated: int
    total_tokens: int
    usage: Usage
    queue_time: float
    execution_time: float
    completion_time: float
    generation_time: float
    time_to_first_token: float | None
    tokens_per_second: float
    preemption_count: int
    cached_tokens: int
    held_s: float
    finish_reason: str
    metadata: dict[str, Any]


class GenerateAnswer(Figures):
    job_id: str
    request_id: str
    text: str | None
    generated_text: str | None


class ReplyMessage(TypedDict):
    role: str
    content: str | None


class ChatAnswer(GenerateAnswer):
    message: ReplyMessage


class JobAccepted(TypedDict):
    job_id: str
    state: str


State = Literal["queued", "running", "preempted", "finished", "cancelled", "failed"]


class JobSummary(TypedDict):
    """One of GET /jobs. Times: s since the epoch."""

    job_id: str
    kind: str
    state: State
    durable: bool
    client: str
    model: str
    created: float
    ended: float | None
    prompt_tokens: int
    tokens_generated: int
    preemptions: int
    cached_tokens: int
    held_s: float
    queue_level: str | None
    position: int | None
    reason: str | None
    error: str | None
    metadata: dict[str, Any]


class JobView(JobSummary):
    """Response of GET /jobs/{job_id}."""

    result: GenerateAnswer | None


class JobList(TypedDict):
    jobs: list[JobSummary]
    total: int
    next: str | None


class GpuMemory(TypedDict):
    total: int
    used: int
    free: int


class Health(TypedDict):
    status: Literal["healthy", "unhealthy"]
    is_loaded: bool
    is_ready: bool
    backend_type: str
    model_loaded: bool
    tokenizer_loaded: bool
    gpu_available: bool
    gpu_count: int
    gpu_memory: GpuMemory


class Ready(TypedDict):
    ready: bool
    reason: str | None


class ModelEntry(TypedDict):
    name: str
    type: str
    parameters: int | None
    context_length: int
    loaded: bool
    backend: str


class ModelCard(TypedDict):
    """A model as OpenAI's routes list it."""

    id: str
    object: str
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(TypedDict):
    """Response of GET /models. object, data: as of GET /v1/models, for OpenAI's clients whose base URL lacks /v1."""

    object: str
    data: list[ModelCard]
    models: list[ModelEntry]
    default_model: str
