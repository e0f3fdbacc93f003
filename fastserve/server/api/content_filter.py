"""ContentFilter: a function of the user's that may refuse a prompt. Off unless the setting names one."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastserve.importing import module_of
from fastserve.sched.keywords import guarded
from fastserve.server.api.errors import ApiError

log = logging.getLogger("fastserve.server")

LONGEST = 500
"""Characters of a reason that a client is told."""


class ContentFilter:
    """function(text) -> None to let a prompt pass, or the reason for which it is refused. text: as the model would read
    it, with the chat template; of token ids what they say. Called from several threads.

    name: module:function or ./file.py:function. Raises ValueError for what is none.
    """

    def __init__(self, name: str) -> None:
        where, _, function = name.rpartition(":")
        if not where or not function.isidentifier():
            raise ValueError(f"content_filter {name!r}: give module:function or ./file.py:function")
        told = f"content_filter {name!r}"
        found = getattr(guarded(told, lambda: module_of(told, where)), function, None)
        if not callable(found):
            raise ValueError(f"content_filter {name!r}: {where} has no function {function}")
        self.name = name
        self.function: Callable[[str], object] = found

    def check(self, text: str) -> None:
        """Raises ApiError 400 for a prompt that is refused, 500 where the filter itself fails: nothing passes then."""
        try:
            reason = self.function(text)
        except Exception as error:
            log.exception("content_filter %s has failed", self.name)
            raise ApiError(500, "the server's content filter has failed; the prompt was not looked at") from error
        if reason:
            what = "" if reason is True else f": {str(reason)[:LONGEST]}"
            raise ApiError(400, f"the prompt is refused by this server's content filter{what}", param="prompt")
