"""VllmBody: comparison on vLLM, a fresh server for each run: under policies of ours, and as it is.

Both get the same rows, slots and flags of vLLM's. How a policy comes into vLLM: `fastserve vllm`, docs/vllm.md.
"""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastserve.bench.api import HttpApi
from fastserve.bench.api_formats import Completions, RequestOptions
from fastserve.bench.target import Target, TargetClient
from fastserve.cli.vllm import ACTIVE, CACHING, SEQS, SERVER, SLOTS, Theirs, usual_rows
from fastserve.compare.compare import Replay, Watch
from fastserve.compare.contender import Contender
from fastserve.compare.http import HttpBody
from fastserve.compare.subprocess_server import Child
from fastserve.compare.vllm_server import VllmProcess
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from fastserve.workload.session_settings import SessionSettings

OUR_PREEMPTIONS = ("fastserve_num_preemptions_total", "fastserve_preempted_by_vllm_total")
ITS_PREEMPTIONS = ("vllm:num_preemptions_total",)
"""Names in /metrics. vLLM does not count those whom our Scheduler parks, so that ours are told where there are any."""

TELLS = "--enable-prompt-tokens-details"
"""How many tokens of a prompt were found in the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSetup:
    """What all contenders share."""

    python: Path
    """that has vLLM"""
    model: str
    """a folder or a Hugging Face id"""
    slots: int = SLOTS
    """requests that decode or prefill at once"""
    rows: int | None = None
    """requests whose KV may be on the device, parked ones too (by default as `fastserve vllm` has it)"""
    leave: str | None = None
    """park or recompute; by default as `fastserve vllm` has it"""
    visit: int | None = None
    profile: str | None = None
    """iteration times for policies that read them"""
    more: tuple[str, ...] = ()
    """further flags of `fastserve vllm`"""
    flags: tuple[str, ...] = ()
    """vLLM's own"""

    def __post_init__(self) -> None:
        if self.slots < 1 or self.all_rows < self.slots:
            raise ValueError(f"slots={self.slots}, rows={self.rows}: give at least one slot, and as many rows as slots")

    @property
    def all_rows(self) -> int:
        return usual_rows(self.slots, self.leave or "park", Theirs(self.flags)) if self.rows is None else self.rows

    def command(self, contender: Contender) -> list[str]:
        """A module and its arguments; what follows it are vLLM's flags."""
        if not isinstance(contender, PolicySpec):
            places = [SEQS, str(self.all_rows), ACTIVE, str(self.slots)]
            return [SERVER, "--model", self.model, *places, CACHING]
        own = ["--policy", contender.path, "--slots", str(self.slots), "--rows", str(self.all_rows)]
        for name in ("leave", "visit", "profile"):
            value = getattr(self, name)
            own += [] if value is None else [f"--{name}", str(value)]
        for key, value in contender.knobs.items():
            own += ["--set", f"{key}={value!r}"]
        return ["fastserve", "vllm", self.model, *own, *self.more, "--"]


class VllmBody(HttpBody):
    """Lengths are told, by max_tokens with ignore_eos: vLLM cannot be asked to end an output where it does not know."""

    def __init__(
        self, setup: VllmSetup, *, start_s: float = 600.0, predictor: str = "oracle",
        coming: SessionSettings | None = None, own_answers: bool = False,
    ) -> None:  # fmt: skip
        about = {
            "body": "vllm", "backend": "vllm", "model": setup.model, "slots": setup.slots, "rows": setup.all_rows,
            "leave": setup.leave, "visit": setup.visit, "latency": setup.profile,
            "flags": " ".join(setup.flags) or None, "lengths": "told",
        }  # fmt: skip
        super().__init__([], about, start_s=start_s, predictor=predictor, coming=coming, own_answers=own_answers)
        self.setup = setup
        self.vocab_size = vocab_size_of(setup.model)
        self.release: str | None = None

    def server(self, contender: Contender, requests: int) -> Child:
        setup = self.setup
        return VllmProcess(setup.python, setup.command(contender), (TELLS, *setup.flags), start_s=self.start_s)

    def replay_on(
        self, contender: Contender, url: str, server: Child | None, trace: Trace, seed: int, watch: Watch | None = None
    ) -> Replay:
        found = super().replay_on(contender, url, server, trace, seed, watch)
        if isinstance(contender, PolicySpec):
            found.notes["policy"] = contender.in_effect
        return found

    def probe(self, url: str) -> Target:
        told = TargetClient(url).ask("/version")
        self.release = told.get("version") if isinstance(told, dict) else None
        return replace(super().probe(url), vocab_size=self.vocab_size)

    def api(self, url: str, target: Target, *, in_sessions: bool = False, token_ids: bool = False) -> HttpApi:
        options = RequestOptions(
            model=next(iter(target.models), None), ignore_eos=True, temperature=0.0, xargs=True, programs=in_sessions,
            token_ids=token_ids,
        )  # fmt: skip
        return HttpApi(url, Completions(options))

    def preemptions(self, url: str) -> int | None:
        page = _page(f"{url}/metrics")
        for names in (OUR_PREEMPTIONS, ITS_PREEMPTIONS):
            counts = [count for name in names if (count := total(page, name)) is not None]
            if counts:
                return sum(counts)
        return None

    def machine(self) -> dict[str, Any]:
        return super().machine() | {"vllm": self.release}


def total(page: str, name: str) -> int | None:
    """Sum of a metric over its labels, in a page of Prometheus' text format; None where it is not there."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)
    return round(sum(map(float, found))) if found else None


def vocab_size_of(model: str) -> int | None:
    """By the config.json of a folder."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        return int(config["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _page(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10.0) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except OSError:
        return ""
