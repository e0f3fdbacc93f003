"""Pages of other origins in a real browser, and the page of the server itself behind a proxy that cuts a prefix off."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("playwright", reason="needs the dev extra")

from playwright.sync_api import Browser, expect, sync_playwright

from tests.server.test_page import CHROMIUM, FLAGS, SHOTS, Open, Site, site, until, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
__all__ = ["site", "visit"]

ATTACK = """async (url) => {
  const json = JSON.stringify({ prompt: "owned", max_new_tokens: 2 });
  const said = {};
  const all = [];
  const tried = (name, doing) => all.push((async () => {
    try { said[name] = String(await doing()); } catch (error) { said[name] = `threw ${error.name}`; }
  })());
  const element = (tag, field, path) => new Promise((resolve) => {
    const made = document.createElement(tag);
    if (tag === "link") made.rel = "prefetch";
    made.onload = () => resolve("loaded");
    made.onerror = () => resolve("failed");
    setTimeout(() => resolve("silent"), 3000);
    made[field] = url + path;
    document.body.append(made);
  });
  const form = (path, method, enctype, name, value) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = `frame${Math.random()}`;
    const made = document.createElement("form");
    Object.assign(made, { action: url + path, method, enctype, target: frame.name });
    const field = document.createElement("input");
    Object.assign(field, { name, value });
    made.append(field);
    document.body.append(frame, made);
    frame.onload = () => resolve("sent");
    setTimeout(() => resolve("silent"), 3000);
    made.submit();
  });
  const paths = ["generate", "generate/stream", "chat", "jobs", "send_text", "stream", "v1/generate",
    "v1/completions", "v1/chat/completions", "v1/generate_nobatch"];
  for (const path of paths) {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json", ""]) {
      const body = new Blob([json], { type });
      const sent = { method: "POST", mode: "no-cors", body };
      tried(`no-cors ${path} ${type}`, async () => (await fetch(url + path, sent)).type);
      tried(`beacon ${path} ${type}`, () => navigator.sendBeacon(url + path, body));
      tried(`cors ${path} ${type}`, async () => (await fetch(url + path, { method: "POST", body })).status);
    }
    tried(`form ${path}`, () => form(path, "post", "text/plain", '{"prompt": "owned", "metadata": {"a": "', '"}}'));
  }
  const get = "stream?prompt=owned&max_new_tokens=2";
  for (const tag of ["img", "script", "iframe", "audio"]) tried(tag, () => element(tag, "src", get));
  tried("prefetch", () => element("link", "href", get));
  tried("form get", () => form("stream", "get", "application/x-www-form-urlencoded", "prompt", "owned"));
  tried("events", () => new Promise((resolve) => {
    const source = new EventSource(url + get);
    source.onopen = () => resolve("open");
    source.onerror = () => { source.close(); resolve("failed"); };
  }));
  for (const path of ["jobs", "live", "stats", "v1/models"]) {
    tried(`read ${path}`, async () => (await fetch(url + path)).status);
    tried(`read opaque ${path}`, async () => (await fetch(url + path, { mode: "no-cors" })).type);
  }
  tried("cancel", async () => (await fetch(url + "jobs/JOB", { method: "DELETE" })).status);
  const css = document.createElement("style");
  css.textContent = `body { background: url(${url + get}) }`;
  document.head.append(css);
  await Promise.all(all);
  await new Promise((resolve) => setTimeout(resolve, 200));
  return said;
}"""
"""All that a page can send without being asked, to an address: what came of each."""


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hosted() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], int]]:
    """hosted(handler): the port of another server of this machine."""
    servers: list[ThreadingHTTPServer] = []

    def hosted(handler: type[BaseHTTPRequestHandler]) -> int:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return int(server.server_address[1])

    yield hosted
    for server in servers:
        server.shutdown()
        server.server_close()


class Elsewhere(Quiet):
    """Pages of somebody else: an empty one, and one in a frame without an origin."""

    def do_GET(self) -> None:
        inner = b"<!doctype html><title>elsewhere</title><body></body>"
        framed = b'<!doctype html><body><iframe sandbox="allow-scripts allow-forms" src="/"></iframe></body>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(framed if self.path == "/framed" else inner)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """With names of other people that lead to this machine."""
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP llm.example 127.0.0.1"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules])
        yield browser
        browser.close()


@pytest.mark.parametrize("where", ["another port", "localhost", "another name", "a file", "a sandboxed frame"])
def test_a_page_of_another_origin_starts_nothing(
    where: str, site: Callable[..., Site], hosted: Callable[..., int], browser: Browser, tmp_path: Path
) -> None:
    shown = site(max_model_len=100_000)
    own = httpx.post(f"{shown.url}jobs", json={"prompt": "stay", "max_new_tokens": 90_000}).json()["job_id"]
    kept = shown.service.registry.jobs
    port = hosted(Elsewhere)
    (tmp_path / "page.html").write_text("<!doctype html><body></body>")
    place = {
        "another port": f"http://127.0.0.1:{port}/",
        "localhost": f"http://localhost:{port}/",
        "another name": f"http://evil.example:{port}/",
        "a file": (tmp_path / "page.html").as_uri(),
        "a sandboxed frame": f"http://127.0.0.1:{port}/framed",
    }[where]
    page = browser.new_page()
    page.goto(place)
    frame = page.frames[1] if where == "a sandboxed frame" else page.main_frame
    for url in {shown.url, shown.url.replace("127.0.0.1", "localhost")}:
        said: dict[str, Any] = frame.evaluate(ATTACK.replace("JOB", own), url)
        assert list(kept) == [own] and kept[own].handle is not None, said
        assert len(said) > 100
        for name, came in said.items():
            readable = name.startswith(("cors", "read", "cancel")) and "opaque" not in name
            assert not readable or came.startswith("threw"), (name, came)
        assert said["events"] == "failed" and said["img"] == "failed"
    page.close()
    assert httpx.delete(f"{shown.url}jobs/{own}").json()["state"] == "cancelled", "it ran until its own client ended it"


def test_a_rebound_name_reads_and_starts_nothing(site: Callable[..., Site], browser: Browser) -> None:
    """Of one origin for the browser: a page at evil.example, whose address has become this machine's."""
    shown = site()
    page = browser.new_page()
    answer = page.goto(f"http://evil.example:{shown.port}/")
    assert answer is not None and answer.status == 403 and "--allowed-hosts evil.example" in answer.text()
    statuses = page.evaluate(
        """async () => {
          const body = JSON.stringify({ prompt: "owned", max_new_tokens: 2 });
          const headers = { "Content-Type": "application/json", "X-Forwarded-Host": "localhost" };
          const post = (path) => fetch(path, { method: "POST", headers, body });
          const all = [post("/generate"), post("/jobs"), post("/stream"), fetch("/jobs"), fetch("/live"),
            fetch("/stats"), fetch("/stream?prompt=x"), fetch("/jobs/x", { method: "DELETE" })];
          return (await Promise.all(all)).map((response) => response.status);
        }"""
    )
    assert set(statuses) == {403} and not shown.service.registry.jobs
    page.close()


def test_a_page_that_is_allowed(site: Callable[..., Site], hosted: Callable[..., int], browser: Browser) -> None:
    port = hosted(Elsewhere)
    shown = site(settings={"cors_origins": f"http://127.0.0.1:{port}"})
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    ask = """async (url) => (await (await fetch(url + "generate", { method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ prompt: "mine", max_new_tokens: 2 }) })).json()).tokens_generated"""
    assert page.evaluate(ask, shown.url) == 2
    page.goto(f"http://localhost:{port}/")
    assert page.evaluate(f"url => ({ask})(url).catch((error) => error.name)", shown.url) == "TypeError"
    page.close()


def proxy(port: int, host: str | None) -> type[BaseHTTPRequestHandler]:
    """One that shows a server below /llm. host: what it says as Host; by default what the browser said."""

    class Proxy(Quiet):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.path.startswith("/llm"):
                self.send_error(404)
                return
            upstream = http.client.HTTPConnection("127.0.0.1", port)
            own = ("host", "connection")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
            headers |= {"Host": host or self.headers["Host"], "X-Forwarded-For": "192.0.2.7"}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream.request(self.command, self.path.removeprefix("/llm") or "/", body, headers)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                while chunk := answer.read1(1 << 16):
                    self.wfile.write(chunk)
                    self.wfile.flush()
            except OSError:
                pass  # the browser has left
            finally:
                upstream.close()

        do_POST = do_GET
        do_DELETE = do_GET

    return Proxy


@pytest.mark.parametrize(
    ("host", "name", "settings"),
    [
        (None, "localhost", {}),
        (None, "llm.example", {"allowed_hosts": "llm.example"}),
        ("127.0.0.1", "localhost", {}),
        ("127.0.0.1", "llm.example", {"cors_origins": "http://llm.example:PORT"}),
    ],
)
def test_the_page_and_the_documentation_behind_a_path(
    host: str | None,
    name: str,
    settings: dict[str, str],
    site: Callable[..., Site],
    hosted: Callable[..., int],
    visit: Open,
) -> None:
    late: list[int] = []
    front = hosted(type("Front", (Quiet,), {"do_GET": lambda self: proxy(late[0], host).do_GET(self),
                                            "do_POST": lambda self: proxy(late[0], host).do_POST(self),
                                            "protocol_version": "HTTP/1.1"}))  # fmt: skip
    given = {key: value.replace("PORT", str(front)) for key, value in settings.items()}
    shown = site(settings={"root_path": "/llm", **given})
    late.append(shown.port)
    for address in (f"http://{name}:{front}/llm/", f"http://{name}:{front}/llm"):
        page = visit(address)
        page.get_by_label("At most").fill("5")
        page.get_by_label("Message").fill("hello")
        page.get_by_label("Message").press("Enter")
        until(page, "document.querySelector('.answer .words')?.textContent.length === 5")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "behind-a-path.png")
    if name != "localhost":
        return
    page.get_by_role("link", name="API documentation").click()
    expect(page.get_by_text("/generate/stream")).to_be_visible()
    page.screenshot(path=SHOTS / "docs.png")
    page.get_by_text("/health/ready").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.get_by_text('"ready": true').first).to_be_visible()
    page = visit(f"http://{name}:{front}/llm/redoc", live=False, quiet=False)  # its logo is elsewhere
    expect(page.get_by_role("heading", name="FastServe testbed")).to_be_visible()
