"""MachineTimes: the machine facts that the Scheduler and its policy may use, from a latency model and a link."""

from __future__ import annotations

from fastserve.hardware import Hardware


class MachineTimes:
    """slots: the batch cap. longest: tokens of the longest prompt that will be accepted. All times in ns."""

    __slots__ = ("_block_bytes", "_hardware", "decode_ns", "longest", "slots")

    def __init__(self, hardware: Hardware, slots: int, longest: int) -> None:
        self._hardware = hardware
        self._block_bytes = hardware.memory.block_bytes
        self.decode_ns: int = hardware.latency.decode_ns
        self.slots = slots
        self.longest = longest

    def prefill_ns(self, tokens: int) -> int:
        return self._hardware.latency.prefill_ns(tokens)

    def return_ns(self, blocks: int) -> int:
        """Copying so many blocks out and in again, on an empty link."""
        link = self._hardware.link
        size = blocks * self._block_bytes
        return link.copy_ns(size, True) + link.copy_ns(size, False)
