"""RecordLines: a record of each request, as a line of JSON when it ends: vLLM's process may be killed any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.json_values import plain
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer

KEPT = 1000
"""Records that are kept in memory, where nobody asks for them."""


class RecordLines(Observer):
    """Attached behind a Recorder that `write` watches. requests: job -> vLLM's request, while it lives.

    OSError where the file cannot be written.
    """

    def __init__(self, path: str, requests: Mapping[Job, Any]) -> None:
        self.requests = requests
        self.file = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by ended())

    def write(self, job: Job, row: dict[str, Any]) -> None:
        request = self.requests.get(job)
        told = {"request": None if request is None else request.request_id, **row}
        self.file.write(json.dumps(plain(told), separators=(",", ":")) + "\n")

    def ended(self, now: int) -> None:
        self.file.close()
