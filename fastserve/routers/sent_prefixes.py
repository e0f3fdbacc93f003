"""SentPrefixes: what each replica still has cached, as far as the sender can know: what it has sent there."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence


class SentPrefixes:
    """Of each replica the ids of the prompts that it got (job.ids: each names its content and all before it), at most
    `most` or what its KV pool takes. Who was touched longest ago goes first, a prompt's end before its beginning: so
    whatever is here, all before it is here too, and how far a prompt is cached is found by bisection.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._of: dict[int, OrderedDict[int, None]] = {}

    def found(self, replica: int, ids: Sequence[int]) -> int:
        """How many of the first ids it has."""
        cached = self._of.get(replica)
        if not cached or not ids or ids[0] not in cached:
            return 0
        return bisect_left(ids, True, key=lambda id: id not in cached)

    def note(self, replica: int, ids: Sequence[int], room: int) -> None:
        """It got a prompt of these. room: ids that its KV pool takes, as far as that is known; at most `most` count."""
        cached = self._of.setdefault(replica, OrderedDict())
        most = min(self.most, room)
        for id in reversed(ids[:most]):
            cached[id] = None
            cached.move_to_end(id)
        while len(cached) > most:
            cached.popitem(last=False)

    def forget(self, replica: int) -> None:
        self._of.pop(replica, None)

    def __len__(self) -> int:
        """Ids of all replicas."""
        return sum(len(cached) for cached in self._of.values())
