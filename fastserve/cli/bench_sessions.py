"""What `fastserve bench` sends: calls of a schedule, or sessions that wait for what was answered."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastserve.cli.session_arguments import check_programs, sessions_of

if TYPE_CHECKING:
    from fastserve.bench.call import Call
    from fastserve.bench.prompts import Count
    from fastserve.bench.session_calls import FixedCalls, SessionCalls
    from fastserve.workload import Trace
    from fastserve.workload.prompts import Dialogue
    from fastserve.workload.requests import TraceRequest
    from fastserve.workload.session import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is sent. calls: of a schedule; empty where sessions make theirs when they are due."""

    requests: Sequence[TraceRequest]
    calls: Sequence[Call] = ()
    sessions: Sessions | None = None
    made: SessionCalls | FixedCalls | None = None
    dialogue: Dialogue | None = None
    prompts: str = "ids"
    """In words."""
    inexact: int = 0
    """Prompts that may have another length than asked for."""
    warm_up: Sequence[Call] = ()
    hit_rate_unlimited: float | None = None
    block: int = 0
    """Tokens of a block id."""

    @property
    def wants_token_ids(self) -> bool:
        """Whether what follows has answers in it as token ids."""
        return self._goes_on and self.prompts == "ids"

    @property
    def wants_text(self) -> bool:
        return self._goes_on and self.prompts == "text"

    @property
    def _goes_on(self) -> bool:
        dialogue = self.dialogue
        return dialogue is not None and not dialogue.only_recorded and max(dialogue.goes_on, default=-1) >= 0

    def settings(self) -> dict[str, Any]:
        """For the result; of the prompts as they have been made so far."""
        found: dict[str, Any] = {"prompts": self.prompts, "inexact_prompts": self.inexact}
        if self.sessions is not None:
            found["sessions"] = asdict(self.sessions.settings)
            found["hit_rate_unlimited"] = self.hit_rate_unlimited
        if self.sessions is not None and self.dialogue is not None:
            found["own_answers"] = self.dialogue.only_recorded
            found["prompts_with_answers"] = self.dialogue.replaced
            found["prompts_without_answers"] = self.dialogue.untold
        return found

    def tell(self, trace: Trace) -> None:
        """How programs come and what stands in their prompts, on stderr."""
        if self.sessions is None:
            return
        lines = [self.sessions.settings.told(trace)]
        if self.dialogue is None:
            lines.append("prompts: of each request its own, for the trace has no block ids that tell what is alike")
        elif self.dialogue.only_recorded:
            lines.append("prompts: the recorded text, whatever is answered (--own-answers)")
        elif self._goes_on:
            lines.append("prompts: what the server answers stands in what follows (--own-answers: the recorded text)")
        for line in lines:
            print(textwrap.fill(line, 120, subsequent_indent="  "), file=sys.stderr)
        sys.stderr.flush()


def workload_of(
    args: argparse.Namespace,
    trace: Trace,
    requests: Sequence[TraceRequest],
    *,
    texts: Sequence[str] | None,
    ids: tuple[int, int] | None,
    counting: Count | None,
) -> Workload:
    """texts: the prompts themselves, where the workload has them. ids: bounds of token ids; None: prompts are text.

    Raises ValueError for flags that do not go together.
    """
    from fastserve.bench.prompts import IdPrompts, TextPrompts
    from fastserve.bench.schedule import calls_from
    from fastserve.bench.session_calls import AlikePrompts, FixedCalls, SessionCalls, Words
    from fastserve.workload.prompts import Dialogue, TracePrompts
    from fastserve.workload.session import Sessions

    coming = sessions_of(args)
    coming.check_rate(request_rate=args.request_rate)
    in_sessions = coming.in_sessions(trace)
    check_programs(args, in_sessions)
    if in_sessions and args.max_concurrency is not None:
        raise ValueError("--max-concurrency caps requests, which here wait for others: give --sessions N, programs at "
                         "once")  # fmt: skip
    words = None if ids is not None else Words(counting)
    plain: Any = texts
    if texts is None:
        plain = IdPrompts(*ids, args.seed) if ids is not None else TextPrompts(counting, args.seed)
    alike = dialogue = None
    if texts is None and trace.hash_ids is not None:
        alike = TracePrompts(trace, *((0, words.size) if words is not None else ids or (0, 1)), args.seed)
    sessions = Sessions(trace, coming, args.seed) if in_sessions else None
    calls: Sequence[Call] = ()
    made: SessionCalls | FixedCalls | None = None
    if sessions is not None and alike is not None:
        dialogue = Dialogue(trace, alike, recorded=args.own_answers)
        made = SessionCalls(trace, requests, dialogue, words, messages=args.api == "openai-chat")
    else:
        calls = calls_from(trace, requests, plain if alike is None else AlikePrompts(alike, words))
        made = None if sessions is None else FixedCalls(calls)
    inexact = plain.inexact if isinstance(plain, TextPrompts) else 0
    if alike is not None and words is not None and not words.exact:
        inexact = len(trace)
    unlimited = None if alike is None or alike.content is None else alike.content.hit_rate(trace)
    return Workload(
        requests=requests, calls=calls, sessions=sessions, made=made, dialogue=dialogue, inexact=inexact,
        prompts="the workload's texts" if texts is not None else "text" if ids is None else "ids",
        warm_up=_warm_up(args, trace, requests, plain, sessions is not None), hit_rate_unlimited=unlimited,
        block=trace.block_size,
    )  # fmt: skip


def _warm_up(
    args: argparse.Namespace, trace: Trace, requests: Sequence[TraceRequest], plain: Any, in_sessions: bool
) -> Sequence[Call]:
    """The first few at once; of sessions with prompts that nothing else begins like, and of no program."""
    from fastserve.bench.prompts import IdPrompts
    from fastserve.bench.schedule import calls_from

    first = [request._replace(arrival=0) for request in requests[: max(0, args.num_warmups)]]
    if in_sessions:
        first = [request._replace(program="") for request in first]
        if isinstance(plain, IdPrompts):
            plain = IdPrompts(plain.low, plain.high, plain.seed + 1)
    return calls_from(trace, first, plain)


def warnings_of(workload: Workload, found: Mapping[str, Any]) -> list[str]:
    """About programs and their prompts; found: the document."""
    warned = []
    dialogue = workload.dialogue
    if dialogue is not None and dialogue.untold:
        warned.append(
            f"{dialogue.untold} prompts have the recorded text where an answer of the server belongs, for it did not "
            "tell token ids (return_token_ids): of its own answers it finds nothing; --api openai-chat sends text"
        )
    ours = found["from_arrival"]
    most = workload.hit_rate_unlimited
    if workload.sessions is not None and most is not None and ours["hit_rate"] is not None:
        # A server's own units may be smaller than the trace's blocks: it finds up to one of these more in each prompt.
        lengths = [request.prompt for request in workload.requests]
        if ours["hit_rate"] > most + workload.block * len(lengths) / sum(lengths):
            warned.append(
                f"the server found {ours['hit_rate']:.3f} of the prompts in its cache, and no more than {most:.3f} had "
                "been said in this run: it was warm, perhaps from a run before; start it anew, or empty its cache "
                "(POST /reset_prefix_cache)"
            )
    abandoned = ours.get("programs_abandoned")
    if abandoned:
        gave_up = f" ({ours['gave_up']} given up by their clients)" if ours["gave_up"] else ""
        warned.append(
            f"{abandoned} of {ours['programs']} programs were abandoned, for a request of theirs was not "
            f"completed{gave_up}: {ours['abandoned_requests']} requests that would have followed never came; such "
            "programs are outside all times of programs"
        )
    return warned
