"""vllm.v1.core.sched.interface."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Any


class PauseState(enum.IntEnum):
    UNPAUSED = 0
    PAUSED_NEW = 1
    PAUSED_ALL = 2


class SchedulerInterface(ABC):
    @abstractmethod
    def schedule(self, throttle_prefills: bool = False) -> Any:
        raise NotImplementedError

    @abstractmethod
    def get_num_unfinished_requests(self) -> int:
        raise NotImplementedError

    def has_unfinished_requests(self) -> bool:
        return self.get_num_unfinished_requests() > 0
