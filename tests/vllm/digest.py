"""What came out of cases with our Scheduler on the stand-ins, to be compared with what comes out on vLLM's classes.

python -m tests.vllm.digest [--blocks]    # cases as JSON lines on stdin, an answer a line
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from tests.vllm.api import Api
from tests.vllm.cases import Case
from tests.vllm.drive import serve
from tests.vllm.fuzz import api_here


def of(api: Api, case: Case, blocks: bool) -> str:
    """As JSON: steps, schedule (and blocks), ends, what was counted; or how it failed, which is test_fuzz.py's."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            drive = serve(api, case, Path(folder))
        except Exception as error:
            return json.dumps(type(error).__name__)
    schedule = hashlib.sha256(repr((drive.schedule, drive.given if blocks else None)).encode()).hexdigest()
    return json.dumps([len(drive.schedule), schedule, drive.ended, drive.reasons, drive.counts])


def main() -> None:
    api = api_here(standins=True)
    for line in sys.stdin:
        print(of(api, Case.of(line), "--blocks" in sys.argv), flush=True)


if __name__ == "__main__":
    main()
