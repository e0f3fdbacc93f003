"""The memory of packed weights: what is put there comes back, beside the others, on whole cache lines."""

from __future__ import annotations

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from fastserve.backends.torch.native import shelf  # noqa: E402


def test_tensors_of_any_size_and_type_keep_their_numbers_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "SIZE", 4096)  # several rooms
    held = shelf.Shelf()
    given = [
        torch.randn(rows, 7, 5).to(dtype)
        for rows in (1, 3, 30, 300)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ]
    kept = [held.put(data) for data in given]
    for data, mine in zip(given, kept, strict=True):
        assert mine.dtype is data.dtype and torch.equal(mine, data) and mine.data_ptr() != data.data_ptr()
        assert mine.is_contiguous() and mine.data_ptr() % shelf.LINE == 0
    spans = sorted((mine.data_ptr(), mine.data_ptr() + mine.nbytes) for mine in kept)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    del held
    assert all(torch.equal(mine, data) for data, mine in zip(given, kept, strict=True))


def test_a_system_without_huge_pages_has_plain_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(shelf.mmap, "MADV_HUGEPAGE", raising=False)
    data = torch.randn(50, 50)
    assert torch.equal(shelf.Shelf().put(data), data)
