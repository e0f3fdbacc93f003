"""Search on the hub, by huggingface_hub, in a thread and bounded in time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fastserve.gateway.models.fetch import explained

MOST: Final = 50
LONGEST: Final = 200
"""Characters of a query."""
TIMEOUT_S: Final = 15.0
REACH_S: Final = 5.0
THREADS: Final = 2
"""Searches at a time; more wait, and time out."""


class HubError(RuntimeError):
    """The hub does not answer, or not well; the message says what to do."""


class Search:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hub")

    async def __call__(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Models whose name has these words, the most downloaded first. Raises ValueError or HubError."""
        query = " ".join(query.split())
        if not query or len(query) > LONGEST or not query.isprintable():
            raise ValueError(f"a query has 1 to {LONGEST} characters")
        if not 1 <= limit <= MOST:
            raise ValueError(f"limit={limit} must be from 1 to {MOST}")
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, _search, query, limit), TIMEOUT_S)
        except TimeoutError:
            raise HubError(f"the hub did not answer within {TIMEOUT_S:g} s: try again later") from None
        except Exception as error:
            raise HubError(explained(error, f"the search for {query!r}")) from error

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _search(query: str, limit: int) -> list[dict[str, Any]]:
    from huggingface_hub import HfApi, constants, get_session

    get_session().head(constants.ENDPOINT, timeout=REACH_S)  # list_models() goes on trying for 23 s where nobody is
    found = HfApi().list_models(
        search=query, limit=limit, sort="downloads",
        expand=["downloads", "likes", "gated", "pipeline_tag", "library_name", "tags", "lastModified"],
    )  # fmt: skip
    return [
        {
            "id": each.id,
            "model_id": each.id,
            "downloads": each.downloads,
            "likes": each.likes,
            "gated": bool(each.gated),
            "pipeline_tag": each.pipeline_tag,
            "library": each.library_name,
            "gguf": "gguf" in (each.tags or ()),
            "last_modified": each.last_modified.isoformat() if each.last_modified else None,
        }
        for each in found
    ]
