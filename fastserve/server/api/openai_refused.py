"""Fields of OpenAI's routes that ask for what this server cannot do: refused by name. Unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastserve.server.api.errors import ApiError

TO_FORM = "this server cannot keep an output to a schema, pattern or grammar; structured_outputs with choice it can"
SAMPLER = "this server has no such sampler"
LEAVE_OUT = "leave it out"

CANNOT: dict[str, str] = {
    **dict.fromkeys(
        ("guided_json", "guided_json_object", "guided_regex", "guided_grammar", "structural_tag", "json_schema",
         "regex", "ebnf", "grammar"),
        TO_FORM,
    ),
    **dict.fromkeys(
        ("no_repeat_ngram_size", "mirostat", "mirostat_mode", "top_a", "xtc_probability", "dry_multiplier",
         "epsilon_cutoff", "eta_cutoff", "smoothing_factor", "dynatemp_range", "repetition_detection"),
        SAMPLER,
    ),
    **dict.fromkeys(("logits_processors", "custom_logit_processor", "stop_regex"), SAMPLER),
    **dict.fromkeys(("lora", "lora_path", "lora_request", "adapter_id"), "name the adapter as the request's model"),
    **dict.fromkeys(("max_new_tokens", "n_predict"), "here it is max_tokens"),
    "min_new_tokens": "here it is min_tokens",
    "stop_sequences": "here it is stop",
    "use_beam_search": "this server has no beam search",
    "suffix": "this server writes on at the end only",
    "echo": "this server does not repeat the prompt",
    "prompt_logprobs": "this server has logprobs of the output only",
    "logprob_token_ids": "this server has logprobs of the likeliest tokens only",
    "prompt_embeds": "this server takes text and token ids only",
    "chat_template": "the chat template is the server's (--chat-template)",
    "audio": "this server answers with text only",
    "web_search_options": "this server searches nothing",
    "thinking_token_budget": "this server does not count thoughts",
}  # fmt: skip
"""Field -> what this server cannot do. It may be null, false, 0 or empty."""

NEUTRAL: dict[str, float] = {"typical_p": 1, "tfs": 1, "tfs_z": 1, "encoder_repetition_penalty": 1}
"""Samplers that this server does not have -> the value at which they do nothing."""


def refuse(fields: Mapping[str, Any]) -> None:
    """fields: all that a request has besides those that its route knows. Raises ApiError 400 for the first one that
    this server cannot honour.
    """
    for name, value in fields.items():
        if name in CANNOT and value and value != -1:
            _refuse(name, CANNOT[name])
        if name in NEUTRAL and value is not None and value != NEUTRAL[name]:
            _refuse(name, SAMPLER)
    kinds = fields.get("modalities")
    if kinds and kinds != ["text"]:
        _refuse("modalities", "this server answers with text only")
    form = fields.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type", "text") != "text"):
        _refuse("response_format", TO_FORM)
    _refuse_tools(fields)


def _refuse_tools(fields: Mapping[str, Any]) -> None:
    """Tools are for the template to show, so that an old conversation goes on; none can be called."""
    for list_of, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        wanted = fields.get(choice)
        if wanted not in (None, "auto", "none"):
            _refuse(choice, "this server cannot make a model call a tool")
        if fields.get(list_of) and wanted != "none":
            what = f"this server does not find calls of tools in what a model says; send {choice} as none, or"
            _refuse(list_of, what, end=" ")


def _refuse(name: str, what: str, end: str = "; ") -> None:
    raise ApiError(400, f"{name}: {what}{end}{LEAVE_OUT}", param=name)
