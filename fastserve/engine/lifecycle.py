"""Lifecycle: start and end of the engine's thread."""

from __future__ import annotations

import atexit
import threading

from fastserve.engine.loop import Loop


class Lifecycle:
    """The thread ends by close(), at interpreter exit, or when the engine is garbage-collected (see drop)."""

    def __init__(self, loop: Loop) -> None:
        self.inbox = loop.inbox
        self.thread = threading.Thread(target=self._serve, args=(loop,), name="fastserve-engine", daemon=True)
        self.thread.start()
        atexit.register(self.close)  # the interpreter must not end under a thread that is inside the model

    def close(self) -> None:
        """Returns when the thread has ended. In a fork of the process, where there is none, nothing happens."""
        if self.inbox.forked:
            return
        self.inbox.close()
        if not self.here:
            self.thread.join()

    @property
    def here(self) -> bool:
        """Whether the caller is the engine's thread."""
        return threading.current_thread() is self.thread

    def drop(self) -> None:
        """Does not wait: garbage collection may run anywhere, with any lock held."""
        if not self.inbox.forked:
            self.inbox.close()

    def _serve(self, loop: Loop) -> None:
        try:
            loop.run()
        finally:
            loop.backend.close()
            atexit.unregister(self.close)
