"""Rendezvous hashing: an order of the replicas for each key, of which little changes when one goes or comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import log

from fastserve.routers.view import ReplicaView

MOST = 4096
"""Names whose hashes are remembered."""

BITS = 1 << 64


class Rendezvous:
    """Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (IEEE/ACM ToN 6:1, 1998): each pair of
    key and replica has a score, the highest is the key's. When a replica goes, only its own keys move; when one comes,
    it takes the keys for which it scores best, its share of all. With weights: weight / -ln(u), where u in (0, 1) is
    the hash of the pair; the replica is then the key's with a probability in proportion to its weight.

    Replicas count by name, so that one that comes back under another number finds its keys.
    """

    def __init__(self) -> None:
        self._hashes: OrderedDict[str, int] = OrderedDict()  # of names and keys; who was asked for last is at the end

    def scores(self, key: str, views: Sequence[ReplicaView]) -> list[float]:
        """By view; the highest is the key's own."""
        ours = self._hash(key)
        return [view.weight / -log(_unit(_mixed(ours ^ self._hash(view.name)))) for view in views]

    def _hash(self, name: str) -> int:
        hashes = self._hashes
        found = hashes.get(name)
        if found is None:
            found = int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest())
            hashes[name] = found
            if len(hashes) > MOST:
                hashes.popitem(last=False)
        else:
            hashes.move_to_end(name)
        return found


def _mixed(bits: int) -> int:
    """Every bit of the result depends on each of these 64: the finalizer of SplitMix64 (Steele and others, 2014)."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % BITS
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % BITS
    return bits ^ (bits >> 31)


def _unit(bits: int) -> float:
    """Of 64 bits the upper 52 as a number between 0 and 1, never one of the two."""
    return ((bits >> 12) + 0.5) / (1 << 52)
