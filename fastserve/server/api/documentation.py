"""What /docs says beside the types: a sentence for each route, parameter and field, and an example of each request.

Examples are examples.json: what was asked of a server with the embedded model, and what it answered.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

ROUTES = {
    "GET /v1/models": (
        "List models",
        "The model that is served, as OpenAI lists models, and its adapters as vLLM does.",
    ),
    "GET /v1/models/{name}": ("One model", "A model by the name that requests give it."),
    "POST /v1/completions": (
        "Complete a prompt",
        "OpenAI's completions. Fields for the scheduler (`priority`, `program`, objectives, `guess`) are taken too; "
        "fields that are not known are ignored. `stream: true` answers with chunks and `data: [DONE]`.",
    ),
    "POST /v1/chat/completions": (
        "Answer a conversation",
        "OpenAI's chat completions, by the model's own chat template. `stream: true` answers with chunks.",
    ),
    "POST /tokenize": ("Text to token ids", "As vLLM: token ids of a text, or of a conversation."),
    "POST /detokenize": ("Token ids to text", "As vLLM: the inverse of /tokenize."),
    "GET /version": ("Version", "The version of this server."),
    "GET /ping": ("Is anybody there", "Answers at once, without a token, while the server runs."),
    "GET /load": (
        "Requests in flight",
        "How many requests wait or run, tokens still to compute, room in the KV pool: "
        "what a gateway chooses a server by. Jobs sent to /jobs are not counted in server_load.",
    ),
    "POST /generate": (
        "Complete a prompt, with figures",
        "The native route: one JSON object with the text and how the request fared (times in seconds, preemptions). "
        "`stream: true` makes it /generate/stream. A field that is not known is a 422 that names the nearest one.",
    ),
    "POST /generate/stream": (
        "Complete a prompt, as a stream",
        "Server-sent events, `data:` lines of JSON, one a token; the last has `is_final: true` and all figures.",
    ),
    "POST /chat": ("Answer a conversation, with figures", "As /generate, with `messages` instead of a prompt."),
    "POST /jobs": ("Send a durable job", None),
    "GET /jobs": ("List jobs", None),
    "GET /jobs/{job_id}": ("One job", "Its state, its place in the queue, and its result once it has ended."),
    "DELETE /jobs/{job_id}": (
        "Cancel a job",
        "Cancels it, whatever route it came by. One that has ended stays as it is.",
    ),
    "POST /programs/release": ("A program has ended", "ThunderAgent's name for DELETE /programs/{program}."),
    "DELETE /programs/{program}": ("A program has ended", None),
    "POST /reset_prefix_cache": ("Empty the prefix cache", None),
    "DELETE /prefix_cache": (
        "Empty the prefix cache",
        "What no live request holds is forgotten. `emptied` is false while some do: others still find that, so ask "
        "again. With tokens only clients of `--admin-clients` may.",
    ),
    "POST /v1/load_lora_adapter": (
        "Load an adapter",
        "vLLM's name: from then on requests may give it as their `model`. 403 unless the server was started with "
        "`--lora-dir`; with tokens only clients of `--admin-clients` may.",
    ),
    "POST /v1/unload_lora_adapter": ("Unload an adapter", None),
    "POST /v1/generate": (
        "Stream raw text",
        "Another server's name: `event: ttft`, then text as it comes (not JSON), then `event: done`.",
    ),
    "POST /v1/generate_nobatch": ("Complete a prompt alone", None),
    "POST /stream": ("Stream raw text (curl -d)", None),
    "GET /stream": ("Stream raw text (curl -N)", None),
    "GET /model": ("Facts of the model", "Another server's name: vocabulary, end tokens, device and batch cap."),
    "POST /send_text": ("Send a durable job as a task", "Another server's name for POST /jobs."),
    "GET /get_task_status/{task_id}": ("One task", "Another server's name for GET /jobs/{job_id}."),
    "GET /poll_task_status": ("One task, by query", "As /get_task_status/{task_id}."),
    "GET /tasks/": ("List tasks", "All durable jobs of this client, as tasks."),
    "GET /health_check": ("Is anybody there", "Another server's name for /ping."),
    "GET /health": ("Health", "200 while the engine runs, 503 once it has stopped. Needs no token."),
    "GET /health/ready": ("Readiness", "200 while new requests are taken, else 503 with the reason. Needs no token."),
    "GET /models": ("List models", "The model that is served: one object for this route's clients and for OpenAI's."),
    "GET /stats": ("Totals", "Requests, tokens and means since the start."),
    "GET /stats/detailed": ("All figures", "Queues, memory, preemptions, percentiles, throughput, alerts."),
    "GET /live": ("Scheduler events", None),
    "GET /metrics": ("Prometheus metrics", "`fastserve_*`, and `vllm:*` for dashboards that exist."),
}
"""Method and path -> (title, text); None: the docstring of the route."""

FIELDS = {
    # what a request says
    "prompt": "text, or token ids",
    "messages": "the conversation, oldest first",
    "role": "system, user or assistant",
    "content": "what was said",
    "model": "one of /models; by default the loaded one",
    "model_name": "one of /models; by default the loaded one",
    "max_tokens": "maximum output tokens",
    "max_new_tokens": "maximum output tokens",
    "max_completion_tokens": "maximum output tokens, the newer name",
    "max_length": "maximum prompt and output tokens together",
    "temperature": "sampling temperature; 0 is greedy",
    "top_p": "nucleus sampling: the likeliest tokens with this probability together",
    "top_k": "sample from the k likeliest tokens; 0 or -1 is all",
    "min_p": "leave out tokens below this share of the likeliest one's probability",
    "repetition_penalty": "divides the logits of tokens that occurred; 1 is none",
    "presence_penalty": "taken from the logits of output tokens that occurred",
    "frequency_penalty": "taken from the logits of output tokens, for each time that they occurred",
    "seed": "makes sampling repeatable; by default drawn for each request",
    "stop": "texts that end the output, and are cut from it",
    "stop_sequences": "texts that end the output, and are cut from it",
    "stop_token_ids": "token ids that end the output",
    "n": "so many choices, each a job of its own",
    "best_of": "no more than n",
    "stream": "respond with server-sent events",
    "stream_options": "what a stream says beside its tokens",
    "include_usage": "one more chunk with the token counts",
    "continuous_usage_stats": "token counts in every chunk",
    "ignore_eos": "go on after the end token, up to the limit",
    "min_tokens": "minimum output tokens: neither an end token nor a stop text ends the output before",
    "user": "the client whose request it is, where the server has no tokens",
    "stop_after": "end after exactly so many tokens, hidden from the scheduler: for replays of traces",
    "guess": "predicted output tokens, for policies that order by length",
    "logprobs": "log probabilities of the output tokens",
    "top_logprobs": "of so many likeliest tokens at each place",
    "logit_bias": "added to the logits of tokens, by id",
    "allowed_token_ids": "the only token ids that may be sampled",
    "bad_words": "texts that may not be sampled",
    "structured_outputs": "what the output must be",
    "choice": "the output is one of these texts",
    "guided_choice": "the output is one of these texts; the older name",
    "include_stop_str_in_output": "leave the stop text in the output",
    "skip_special_tokens": "leave special tokens out of the text",
    "add_special_tokens": "begin with the model's special tokens",
    "truncate_prompt_tokens": "cut the prompt to so many tokens",
    "truncation_side": "which side is cut",
    "return_tokens_as_token_ids": "tokens of logprobs as `token_id:N`",
    "return_token_ids": "with each choice the ids of its tokens, as `token_ids`",
    "add_generation_prompt": "let the template open the model's turn",
    "continue_final_message": "go on within the last message instead of a new turn",
    "chat_template_kwargs": "further arguments of the chat template, such as enable_thinking",
    "reasoning_effort": "handed to the chat template",
    "enable_thinking": "handed to the chat template: whether the model may think first",
    "lora_name": "name by which requests ask for the adapter, as their model",
    "lora_path": "the adapter's folder, in PEFT's format, below that of --lora-dir",
    "load_inplace": "must be false: unload the one of that name first",
    "tools": "functions that the template may show",
    "documents": "handed to the chat template",
    "tool_calls": "functions that the model has called",
    "reasoning_content": "the model's reasoning of that turn",
    "reasoning": "the model's reasoning of that turn",
    "tokens": "token ids",
    # what an answer says
    "id": "of this answer",
    "object": "OpenAI's name for this kind of object",
    "created": "seconds since 1970",
    "ended": "seconds since 1970; null while it lives",
    "choices": "one for each of n and of the prompts",
    "index": "of the choice",
    "message": "what the model said",
    "refusal": "always null",
    "usage": "token counts of the request",
    "estimated": "only where it is so: some of the counts are estimates, see docs/backends.md",
    "prompt_tokens": "tokens of the prompt",
    "completion_tokens": "tokens of the output",
    "total_tokens": "tokens of prompt and output",
    "tokens_generated": "tokens of the output so far",
    "job_id": "for GET and DELETE /jobs/{job_id}",
    "request_id": "the same as job_id",
    "task_id": "the same as job_id",
    "text": "the output",
    "generated_text": "the same as text",
    "queue_time": "seconds that it waited, before its first service and while preempted",
    "execution_time": "seconds that it was served",
    "completion_time": "seconds from its arrival to its end",
    "generation_time": "the same as completion_time",
    "time_to_first_token": "seconds from its arrival to its first token",
    "tokens_per_second": "output tokens over seconds",
    "requests_per_second": "requests that ended, over seconds",
    "preemption_count": "how often other jobs took its place in the batch",
    "preemptions": "how often jobs lost their place in the batch to others",
    "program": "session or agent run, by the name that its requests give",
    "program_id": "session or agent run, by the name that its requests give",
    "released": "always true: the scheduler was told",
    "emptied": "whether nothing is left in it",
    "success": "whether nothing is left in it",
    "cached_tokens": "tokens of the prompt that were found in the prefix cache, and not computed",
    "prompt_tokens_details": "of the prompt's tokens; there where prefixes are cached",
    "held_s": "seconds for which the policy held it back",
    "held": "jobs that wait because the policy holds them back",
    "draft_tokens": "guesses that were verified",
    "accepted_tokens": "of them, those that were right",
    "acceptance": "accepted_tokens over draft_tokens",
    "method": "who guesses: off, ngram or draft",
    "k": "guesses of a request in one iteration, at most",
    "speculation": "guesses of next tokens: who guesses, how many were verified, and how many were right",
    "prefix_cache": "what of the prompts was found in the prefix cache, since the start, in tokens",
    "on": "whether there is one",
    "queries": "tokens of prompts",
    "hits": "of them, found",
    "hit_rate": "hits over queries",
    "idle": "tokens that nobody uses and that are still there to be found",
    "finish_reason": "stop, length, truncated, cancelled, timeout or error; of OpenAI's routes stop or length",
    "metadata": "what the client sent along, unchanged",
    "state": "queued, running, preempted, finished, cancelled or failed",
    "kind": "generate, chat, completion, chat completion or job",
    "durable": "whether it outlives the server",
    "client": "whose it is: the token's client, else `user` of the request",
    "queue_level": "what the policy says of it while it lives",
    "position": "its place among waiting jobs by arrival; who is next is the policy's to say",
    "reason": "why: finish_reason of a job, or why the server is not ready",
    "error": "what went wrong",
    "result": "as POST /generate answers, once it has ended",
    "jobs": "the jobs",
    "total": "all there is: jobs in this state, or bytes or tokens of a memory",
    "next": "for `after` of the next page; null on the last one",
    "status": "healthy or unhealthy, ok, or the state of a task in Celery's terms",
    "data": "the models",
    "models": "the models, as this route's clients read them",
    "default_model": "the model of requests that name none",
    "name": "its name",
    "type": "its kind",
    "parameters": "weights of the model",
    "context_length": "longest context in tokens",
    "max_model_len": "longest context in tokens",
    "loaded": "always true",
    "backend": "what runs the model",
    "owned_by": "always fastserve",
    "root": "what the model was loaded from",
    "parent": "of an adapter its base model, else null",
    "version": "of the package",
    "server_load": "requests in flight",
    "queued_tokens": "prompt tokens that are still to be computed",
    "expected_tokens": "output tokens still to come, by guesses",
    "free_tokens": "of the KV pool, empty; null: it has no limit",
    "pool_tokens": "of the KV pool, in all; null: it has no limit",
    "draining": "the server shuts down",
    "count": "how many",
    "vocab_size": "tokens of the vocabulary",
    "eos": "token ids that end an output",
    "device": "where the model runs",
    "max_batch_size": "jobs that hold a place in the batch at once",
    "sampling": "what the model itself has for fields of sampling that a request leaves open",
    "is_loaded": "whether the model is loaded",
    "is_ready": "whether new requests are taken",
    "ready": "whether new requests are taken",
    "backend_type": "what runs the model",
    "model_loaded": "whether the model is loaded",
    "tokenizer_loaded": "whether there is a tokenizer",
    "gpu_available": "whether the model runs on a GPU",
    "gpu_count": "GPUs of this machine",
    "gpu_memory": "of the device, in bytes",
    "used": "of it in use",
    "free": "of it not in use",
    "parked": "tokens kept for jobs that do not run",
    "request_count": "requests that ended",
    "total_tokens_generated": "output tokens of all of them",
    "total_inference_time": "their seconds from arrival to end, summed",
    "avg_tokens_per_request": "mean output tokens",
    "avg_time_per_request": "mean seconds from arrival to end",
    "avg_tokens_per_second": "output tokens over total_inference_time",
    "uptime": "seconds since the start",
    "policy": "the scheduling policy",
    "settings": "of the engine, defaults filled in",
    "queues": "live jobs by what the policy says of them",
    "waiting": "jobs without a place in the batch",
    "running": "jobs with a place in the batch",
    "slots": "places of the batch",
    "mean_occupancy": "mean share of places that were taken",
    "device_kv": "KV memory of the device, in tokens",
    "host_kv": "KV memory of the host, in tokens",
    "copies_in_flight": "copies of KV that are under way",
    "bytes_moved": "bytes of KV copied so far, by direction",
    "recomputed_tokens": "tokens computed again because their KV had gone",
    "seconds": "what that took",
    "batch": "use of the batch",
    "jct": "seconds from arrival to end, of recent requests",
    "ttft": "seconds from arrival to the first token, of recent requests",
    "tpot": "seconds for each later token, of recent requests",
    "mean": "arithmetic mean",
    "p50": "median",
    "p95": "95th percentile",
    "p99": "99th percentile",
    "throughput": "of the last minute",
    "error_rate": "share of recent requests that failed",
    "timeout_rate": "share of recent requests that took too long",
    "truncated_rate": "share of recent requests that were cut short",
    "process": "this process",
    "cpu_percent": "of one core",
    "memory_bytes": "resident memory",
    "threads": "threads of the process",
    "scheduler_us_per_iteration": "microseconds of the scheduler and its policy, mean",
    "scheduler_share": "of the time of iterations",
    "iterations": "iterations since the start",
    "alerts": "thresholds of the settings that are crossed now",
    "value": "its value now",
    "threshold": "its limit in the settings",
    "token_logprobs": "log probability of each token",
    "text_offset": "where each token begins in the text",
    "token": "its text",
    "logprob": "its log probability",
    "bytes": "its bytes",
    "detail": "what was wrong, and what to do",
    "loc": "where: body or query, then the field",
    "msg": "what was wrong, and what to do",
    "input": "what was given",
    "ctx": "further facts of the error",
}
"""A field or parameter -> what it is, where its own model does not say."""

FILE = Path(__file__).with_name("examples.json")


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Method and path -> {"request": its body, "answer": JSON or the text of a stream}."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def describe(schema: dict[str, Any]) -> None:
    """Adds titles, texts and examples to an OpenAPI schema, in place."""
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _describe_route(f"{method.upper()} {path}", operation)
    for model in schema["components"]["schemas"].values():
        for name, field in model.get("properties", {}).items():
            if name in FIELDS:
                field.setdefault("description", FIELDS[name])


def _describe_route(route: str, operation: dict[str, Any]) -> None:
    title, text = ROUTES.get(route, (None, None))
    if title:
        operation["summary"] = title
    if text:
        operation["description"] = text
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in FIELDS:
            parameter.setdefault("description", FIELDS[parameter["name"]])
    example = examples().get(route, {})
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in example.get("parameters", {}):
            parameter["example"] = example["parameters"][parameter["name"]]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "request" in example:
            content["example"] = example["request"]
    if "answer" in example:
        good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
        kind = "application/json"
        if isinstance(example["answer"], str):
            kind = next(kind for kind in good["content"] if kind != "application/json")
        good.setdefault("content", {}).setdefault(kind, {})["example"] = example["answer"]
