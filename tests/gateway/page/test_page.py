"""The gateway's page in a real browser, before servers with scripted engines and stubs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx
from playwright.sync_api import Page, expect

from fastserve.bench.stub import Stub
from fastserve.gateway import Gateway
from tests.gateway.live import on_socket, scripted, stub_of
from tests.server.test_page import (
    CONTRAST,
    DESKTOP,
    SHOTS,
    Open,
    browser,
    connected,
    pytestmark,
    until,
    visit,
)

__all__ = ["browser", "pytestmark", "visit"]
PHONE = (390, 844)
Serve = Callable[..., tuple[str, Gateway]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(*upstreams, settings): a gateway on a socket; where it is."""
    with contextlib.ExitStack() as held:

        def serve(*upstreams: str, **settings: Any) -> tuple[str, Gateway]:
            settings = {"health_interval": 0.2, "health_retries": 1, "view_interval": 0.1, **settings}
            gateway = Gateway(upstream=list(upstreams), **settings)
            return held.enter_context(on_socket(gateway.app)), gateway

        yield serve


def server_of(page: Page, name: str) -> Any:
    return page.locator(".server", has=page.get_by_text(name, exact=True))


def ask(page: Page, question: str, tokens: int = 5) -> None:
    page.get_by_label("At most").fill(str(tokens))
    page.get_by_label("Message").fill(question)
    page.get_by_label("Message").press("Enter")


def test_servers_their_load_and_where_requests_go(serve: Serve, visit: Open) -> None:
    with scripted() as one, scripted() as two:
        url, _ = serve(f"{one},name=alpha", f"{two},name=beta", router="round-robin")
        page, phone = visit(url), visit(url, PHONE, color_scheme="dark")
        expect(page.locator("#router")).to_have_text("round-robin")
        for name in ("alpha", "beta"):
            expect(server_of(page, name).locator(".state")).to_have_text("healthy")
            expect(server_of(page, name)).to_contain_text("fastserve · scripted · 0 requests")
        for text in ("one", "two"):
            ask(page, text)
            expect(page.locator(".answer .meta").last).to_have_text(re.compile(r"5 tokens in .* by (alpha|beta)"))
        expect(page.locator("#routes li b")).to_have_text(["beta", "alpha"])
        expect(page.locator("#routes-say")).to_have_text("alpha 1 · beta 1")
        expect(server_of(page, "alpha")).to_contain_text("1 request · 5 tokens")
        expect(page.locator("#models")).to_contain_text("2 servers")
        expect(page.locator("#unmanaged")).to_be_visible()
        expect(phone.locator("#routes li")).to_have_count(2)
        SHOTS.mkdir(parents=True, exist_ok=True)
        for width, each in ((DESKTOP[0], page), (PHONE[0], phone)):
            each.screenshot(path=SHOTS / f"gateway-{width}.png", full_page=True)
            assert each.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
            assert each.evaluate(CONTRAST) == []


def test_a_server_that_dies_is_shown_within_the_check_interval(serve: Serve, visit: Open) -> None:
    with scripted() as stays, contextlib.ExitStack() as dies:
        port = int(dies.enter_context(scripted()).rpartition(":")[2])
        url, _ = serve(f"{stays},name=alpha", f"http://127.0.0.1:{port},name=beta")
        page = visit(url)
        expect(server_of(page, "beta").locator(".state")).to_have_text("healthy")
        dies.close()
        expect(server_of(page, "beta").locator(".state")).to_have_text("failing")
        expect(server_of(page, "beta")).to_contain_text("refused")
        expect(server_of(page, "alpha").locator(".state")).to_have_text("healthy")
        expect(page.locator("#alarm")).to_be_hidden()
        ask(page, "who is there?")
        expect(page.locator(".answer .meta")).to_have_text(re.compile("by alpha"))
        dies.enter_context(scripted(port))
        expect(server_of(page, "beta").locator(".state")).to_have_text("healthy")


def test_drain_weigh_add_and_remove(serve: Serve, visit: Open) -> None:
    with scripted() as one, scripted() as two:
        url, gateway = serve(f"{one},name=alpha")
        page = visit(url, quiet=False)  # a browser logs each refusal itself
        page.get_by_role("button", name="Drain alpha").click()
        expect(server_of(page, "alpha").locator(".state")).to_have_text("draining")
        expect(page.locator("#alarm")).to_have_text(re.compile("No server is healthy"))
        page.get_by_role("button", name="Resume alpha").click()
        expect(server_of(page, "alpha").locator(".state")).to_have_text("healthy")
        page.get_by_label("Weight of alpha").fill("2.5")
        page.get_by_label("Weight of alpha").press("Enter")
        until(page, "true")
        expect(page.get_by_label("Weight of alpha")).to_have_value("2.5")
        page.get_by_label("Add a server").fill(two)
        page.get_by_role("button", name="Add", exact=True).click()
        name = two.removeprefix("http://")
        expect(server_of(page, name).locator(".state")).to_have_text("healthy")
        assert gateway.upstreams.find("alpha").weight == 2.5
        page.get_by_label("Add a server").fill(two)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#upstreams-say")).to_have_text(re.compile("there is an upstream called"))
        page.get_by_role("button", name=f"Remove {name}").click()
        expect(page.locator(".server")).to_have_count(1)
        assert len(gateway.upstreams) == 1


def test_the_gateway_keeps_the_history(serve: Serve, visit: Open) -> None:
    stub = Stub()
    with stub_of(stub) as upstream:
        url, _ = serve(upstream)
        page = visit(url)
        ask(page, "first")
        expect(page.locator(".answer .meta")).to_have_text(re.compile("5 tokens"))
        ask(page, "second")
        expect(page.locator(".answer .meta").last).to_have_text(re.compile("5 tokens"))
        assert [len(seen.body["messages"]) for seen in stub.seen] == [1, 3], "the page has it, unless told otherwise"
        page.get_by_label("gateway keeps the history").check()
        for number, text in enumerate(("third", "fourth")):
            ask(page, text)
            kept = " · 1 earlier turn kept" if number else ""
            expect(page.locator(".answer .meta").nth(number)).to_have_text(re.compile(f"5 tokens in .*{kept}"))
        assert [len(seen.body["messages"]) for seen in stub.seen[2:]] == [1, 3]
        page.get_by_role("button", name="New chat").click()
        until(page, "document.querySelectorAll('.turn').length === 0")
        status = httpx.get(f"{url}/gateway/status").json()["conversations"]
        while status["conversations"]:
            page.wait_for_timeout(20)
            status = httpx.get(f"{url}/gateway/status").json()["conversations"]


EVIL = '"><img src=x onerror="window.hit = 1"><script>window.hit = 2</script>'


def test_what_servers_say_is_text_and_never_markup(serve: Serve, visit: Open) -> None:
    class Evil(Stub):
        def _look(self, path: str) -> tuple[int, Any]:
            if path == "/v1/models":
                return 200, {"object": "list", "data": [{"id": EVIL, "object": "model", "owned_by": "stub"}]}
            return super()._look(path)

    with stub_of(Evil()) as upstream:
        url, _ = serve(upstream)
        page = visit(url)
        expect(page.locator("#models b")).to_have_text(EVIL)
        expect(page.locator(".server")).to_contain_text(EVIL)
        assert page.evaluate("document.querySelector('#model').value") == EVIL
        ask(page, EVIL)
        expect(page.locator(".answer .meta")).to_have_text(re.compile("5 tokens"))
        expect(page.locator("#routes li")).to_contain_text(EVIL)
        assert page.evaluate("[window.hit, document.querySelectorAll('main img').length]") == [None, 0]


def test_a_token_is_asked_for(serve: Serve, visit: Open) -> None:
    with scripted() as upstream:
        url, _ = serve(f"{upstream},name=alpha", api_key=["s3cret alice", "other bob"], admin_clients=["alice"])
        page = visit(url, live=False, quiet=False)  # a browser logs each 401 itself
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Token", exact=True).fill("other")
        page.keyboard.press("Enter")
        connected(page)
        page.get_by_role("button", name="Drain alpha").click()
        expect(page.locator("#upstreams-say")).to_have_text(re.compile("may not change upstreams"))
        ask(page, "hello")
        expect(page.locator(".answer .meta")).to_have_text(re.compile("5 tokens"))


def test_by_keyboard_alone(serve: Serve, visit: Open) -> None:
    """All that can be done has a name and can be reached; what changes by itself keeps the focus where it is."""
    with scripted() as upstream:
        url, _ = serve(f"{upstream},name=alpha")
        page = visit(url)
        expect(page.locator(".server")).to_have_count(1)
        named = page.evaluate("""() => [...document.querySelectorAll("button, input, select, textarea")]
            .filter((each) => each.checkVisibility() && !each.labels?.length && !each.ariaLabel)
            .filter((each) => !each.textContent.trim())
            .map((each) => each.outerHTML)""")
        assert named == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        for _ in range(2):
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.ariaLabel") == "Drain alpha"
        page.wait_for_timeout(1500)  # more than one look at the status
        assert page.evaluate("document.activeElement.ariaLabel") == "Drain alpha"
        page.keyboard.press("Enter")
        expect(server_of(page, "alpha").locator(".state")).to_have_text("draining")


def test_the_gateway_goes_and_comes_back(visit: Open) -> None:
    with scripted() as upstream:
        with on_socket(Gateway(upstream=[upstream]).app) as url:
            page = visit(url, quiet=False)
        expect(page.locator("#link")).to_have_text("reconnecting")
        with on_socket(Gateway(upstream=[upstream]).app, int(url.rpartition(":")[2])):
            connected(page)
