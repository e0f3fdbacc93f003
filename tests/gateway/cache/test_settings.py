"""The cache's settings: flags, the `caching` group of other servers, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve.gateway.cache.stage import part, store_of
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.core import Core


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 1 << 30), ("512MB", 1 << 29), ("64MiB", 1 << 26), ("1.5 gb", 3 << 29), (70000, 70000), ("100KB", 102400)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert GatewayConfig(cache="memory", cache_size=text).cache_size == size


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cache": "sqlite"}, "none of memory, disk, redis"),
        ({"cache": "redis://"}, "redis://HOST:PORT"),
        ({"cache": "memory", "cache_size": "much"}, "write 1GB"),
        ({"cache": "memory", "cache_size": "1KB"}, "greater than or equal to 65536"),
        ({"cache": "memory", "cache_ttl": 0}, "greater than or equal to 1"),
        ({"cache": "memory", "cache_scope": "all"}, "client"),
    ],
)
def test_wrong_ones(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GatewayConfig(**settings)


def test_the_group_of_other_servers(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    group = "{enabled: true, cache_type: redis, cache_size: '2GB', ttl_seconds: 60}"
    file.write_text(f"serving:\n  caching: {group}\n")
    config = GatewayConfig(config=file)
    assert (config.cache, config.cache_size, config.cache_ttl) == ("redis", 2 << 30, 60.0)
    file.write_text(f"serving:\n  caching: {group.replace('true', 'false')}\n")
    assert GatewayConfig(config=file).cache is None
    file.write_text("serving:\n  caching: {enabled: true}\n")
    with pytest.raises(ValueError, match=r"caching\.enabled is true"):
        GatewayConfig(config=file)


def test_off_unless_asked_for() -> None:
    assert part(Core(GatewayConfig())) is None


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="give another --cache-dir"):
        store_of(GatewayConfig(cache="disk", cache_dir=tmp_path / "file"))
