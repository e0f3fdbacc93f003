"""MachineTimes: the machine facts that the Scheduler and its policy may use, from a latency model and a link."""

from __future__ import annotations

from typing import Final

from fastserve.hardware import Hardware
from fastserve.sched.job import NEVER

EXACT: Final = 1 << 62
"""ps, 53 days: a latency model adds spans up to here."""


class MachineTimes:
    """slots: the batch cap. longest: tokens of the longest prompt that will be accepted. context: tokens of the longest
    prompt and output together; 0 is not known. All times in ns.
    """

    __slots__ = (
        "_block_bytes", "_hardware", "context", "decode_ns", "host_prefix_tokens", "host_tokens", "longest",
        "pool_tokens", "slots",
    )  # fmt: skip

    def __init__(self, hardware: Hardware, slots: int, longest: int, context: int = 0) -> None:
        self._hardware = hardware
        self._block_bytes = hardware.memory.block_bytes
        self.decode_ns: int = hardware.latency.decode_ns
        self.slots = slots
        self.longest = longest
        self.context = context
        self.pool_tokens: int = NEVER  # of the pools: the Scheduler says
        self.host_tokens: int = 0
        self.host_prefix_tokens: int = 0

    @property
    def output_ns(self) -> int:
        """Service of the longest output that is accepted, alone: behind a prompt of one token; 0 is not known."""
        if self.context < 2:
            return 0
        latency = self._hardware.latency
        output = self.context - 1
        last: int = latency.iteration_ps(1, self.context, ())
        if output * last >= EXACT:
            return latency.prefill_ns(1) + (output - 1) * last // 1000  # as if each took as long as the last
        return (latency.alone_ps(1, output, None) + 500) // 1000

    def prefill_ns(self, tokens: int) -> int:
        return self._hardware.latency.prefill_ns(tokens)

    def load_ns(self, tokens: int) -> int:
        """Copying the KV of so many tokens, in whole blocks, to the device on an empty link."""
        memory = self._hardware.memory
        return self._hardware.link.copy_ns(-(-tokens // memory.block_tokens) * self._block_bytes, False)

    def return_ns(self, blocks: int) -> int:
        """Copying so many blocks out and in again, on an empty link."""
        link = self._hardware.link
        size = blocks * self._block_bytes
        return link.copy_ns(size, True) + link.copy_ns(size, False)
