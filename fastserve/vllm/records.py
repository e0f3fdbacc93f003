"""RecordLines: a record of each request, as a line of JSON when it ends: vLLM's process may be killed any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.json_values import plain
from fastserve.metrics.records import Recorder
from fastserve.sched.job import Job

KEPT = 1000
"""Records that are kept in memory, where nobody asks for them."""


class RecordLines(Recorder):
    """requests: job -> vLLM's request, while it lives. OSError where the file cannot be written."""

    def __init__(self, path: str, requests: Mapping[Job, Any]) -> None:
        super().__init__(keep=KEPT, watch=self._write)
        self.requests = requests
        self.file = Path(path).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by ended())

    def _write(self, job: Job, row: dict[str, Any]) -> None:
        request = self.requests.get(job)
        told = {"request": None if request is None else request.request_id, **row}
        self.file.write(json.dumps(plain(told), separators=(",", ":")) + "\n")

    def ended(self, now: int) -> None:
        super().ended(now)
        self.file.close()
