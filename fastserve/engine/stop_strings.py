"""StopStrings: streaming search for stop strings; holds back a possible prefix, cuts the text at the first match."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """A stop string counts as soon as its last character is there, as if characters came one by one; of two that are
    complete at the same character the longer one counts. keep: leave the stop string at the end of the text.
    """

    __slots__ = ("_held", "_keep", "_longest", "_stops", "found")

    def __init__(self, stops: Sequence[str], keep: bool = False) -> None:
        self._stops = tuple(stops)
        self._keep = keep
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""  # shorter than the longest stop string
        self.found: str | None = None
        """The stop string that ended the text."""

    def pass_on(self, text: str, armed: bool = True) -> str:
        """The text that can be emitted now; "" once a stop string was found.

        armed=False: matches that end in this text are ignored.
        """
        if self.found is not None:
            return ""
        if not self._stops or not text:
            return text
        before = len(self._held)  # stop strings must end after this
        text = self._held + text
        if armed:
            ends = []
            for stop in self._stops:
                place = text.find(stop, max(0, before + 1 - len(stop)))
                if place >= 0:
                    ends.append((place + len(stop), place, stop))
            if ends:
                end, place, self.found = min(ends)
                self._held = ""
                return text[: end if self._keep else place]
        sure = len(text) - self._open(text)
        self._held = text[sure:]
        return text[:sure]

    def flush(self) -> str:
        """After the last text: what was held back."""
        held, self._held = self._held, ""
        return held

    def _open(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            end = text[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0
