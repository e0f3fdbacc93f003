"""Who may use a server: names that it is called by, pages of other origins, and what only a program may send."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Client, Serve
from tests.server.sse import every_data_line

pytestmark = pytest.mark.anyio

BODY = {"prompt": "hello", "max_new_tokens": 2}
CHROME = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/150.0.0.0 Safari/537.36"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def jobs(client: Client) -> int:
    return len(client.service.registry.jobs)


async def called(client: Client, host: str, **headers: str) -> int:
    response = await client.get("/health", headers={"Host": host, **headers})
    return response.status_code


NEVER_FOREIGN = [
    "localhost", "localhost:8000", "LOCALHOST:8000", "localhost.", "app.localhost:3000", "127.0.0.1:8000", "127.0.0.1",
    "[::1]:8000", "0.0.0.0:8000", "192.168.1.7:8000", "[fe80::1]",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.io:8000",
    "notlocalhost", "evil.local", "evil.internal", "localhost@evil.example", "localhost:8000:80", "", "a b", "[::1",
    "localhost:x", "[evil]", "localhost,evil.example", "xn--e1afmkfd.example",
]  # fmt: skip
OF_THE_NETWORK = ["gpu7:8000", "fastserve", "gpu7.local", "fastserve.ns.svc.cluster.local", "host.docker.internal:8000"]


async def test_a_foreign_host_is_refused(serve: Serve) -> None:
    async with serve() as client:
        for host in NEVER_FOREIGN:
            assert await called(client, host) == 200, host
        for host in [*FOREIGN, *OF_THE_NETWORK]:
            assert await called(client, host) == 403, host
        for method, path in (
            ("POST", "/generate"),
            ("POST", "/v1/completions"),
            ("GET", "/live"),
            ("DELETE", "/jobs/x"),
        ):
            answer = await client.request(method, path, json=BODY, headers={"Host": "evil.example:8000"})
            assert answer.status_code == 403 and "--allowed-hosts evil.example " in answer.text, path
        twice = await client.get("/health", headers=[("Host", "localhost"), ("Host", "evil.example")])
        assert twice.status_code == 403
        assert jobs(client) == 0


async def test_a_server_that_others_reach_knows_names_of_its_network(serve: Serve) -> None:
    async with serve(host="0.0.0.0") as client:
        for host in [*NEVER_FOREIGN, *OF_THE_NETWORK]:
            assert await called(client, host) == 200, host
        for host in ("evil.example", "gpu7.evil.example", "local.evil.example"):
            assert await called(client, host) == 403, host
    async with serve(host="llm.example") as client:
        assert await called(client, "llm.example:8000") == 200 and await called(client, "x.example") == 403


async def test_allowed_hosts(serve: Serve) -> None:
    async with serve(allowed_hosts=["llm.example,.corp.example", "*.lab.example", "at.example:8443"]) as client:
        for host in (
            "llm.example",
            "LLM.example:9",
            "a.b.corp.example",
            "corp.example",
            "x.lab.example",
            "at.example:8443",
        ):
            assert await called(client, host) == 200, host
        for host in ("evil.llm.example", "evilcorp.example", "lab.example.evil.example", "at.example:80"):
            assert await called(client, host) == 403, host
        assert await called(client, "127.0.0.1:8000", Origin="https://llm.example") == 200, "a proxy says another Host"
        for page in ("https://llm.example:444", "https://a.corp.example", "http://localhost:3000"):
            assert await called(client, "127.0.0.1:8000", Origin=page) == 403, page
    async with serve(allowed_hosts="*") as client:
        assert await called(client, "evil.example") == 200
        assert await called(client, "127.0.0.1:8000", Origin="http://evil.example") == 403


async def test_with_tokens_a_name_needs_no_list(serve: Serve) -> None:
    """A page at a foreign name has no token; a proxy's name works without another flag."""
    bearer = {"Authorization": "Bearer s3cret"}
    async with serve(api_key="s3cret") as client:
        assert await called(client, "llm.example") == 200
        assert (await client.get("/jobs", headers={"Host": "llm.example"})).status_code == 401
        assert (await client.get("/jobs", headers={"Host": "llm.example", **bearer})).status_code == 200
    async with serve(api_key="s3cret", allowed_hosts="llm.example") as client:
        assert await called(client, "llm.example") == 200
        assert (await client.get("/jobs", headers={"Host": "evil.example", **bearer})).status_code == 403


OWN = {"Host": "127.0.0.1:8000"}
PAGES: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"Origin": "http://127.0.0.1:8000"}, True),
    ({"Origin": "https://127.0.0.1:8000"}, True),  # TLS ends at a proxy
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://proxy.example"}, True),  # that says another Host
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Mode": "cors"}, True),  # what Node's fetch() says
    ({"Origin": "http://127.0.0.1:3000"}, False),
    ({"Origin": "http://127.0.0.1"}, False),
    ({"Origin": "http://localhost:8000"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": ""}, False),
    ({"Origin": "file://"}, False),
    ({"Origin": "chrome-extension://abcdef"}, False),
    ({"Sec-Fetch-Site": "none", "Origin": "chrome-extension://abcdef"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}, False),
]


@pytest.mark.parametrize(("headers", "right"), PAGES)
async def test_pages_of_other_origins(serve: Serve, headers: dict[str, str], right: bool) -> None:
    async with serve() as client:
        kept = (await client.post("/generate", json=BODY)).json()["job_id"]
        for method, path, fields in (
            ("POST", "/generate", BODY), ("POST", "/generate/stream", BODY), ("POST", "/jobs", BODY),
            ("POST", "/send_text", {"text": "a"}), ("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1}),
            ("POST", "/tokenize", {"prompt": "a"}), ("GET", "/jobs", None), ("DELETE", f"/jobs/{kept}", None),
        ):  # fmt: skip
            before = jobs(client)
            answer = await client.request(method, path, json=fields, headers=OWN | headers)
            assert (answer.status_code in (200, 202)) is right, (path, answer.text)
            if not right:
                assert answer.status_code == 403 and "--cors-origins" in answer.text and jobs(client) == before
                assert "access-control-allow-origin" not in answer.headers
        preflight = {"Access-Control-Request-Method": "DELETE", **OWN, **headers}
        if not right:
            assert (await client.options(f"/jobs/{kept}", headers=preflight)).status_code == 403


async def test_no_response_can_be_embedded_elsewhere(serve: Serve) -> None:
    """Over plain HTTP to another machine a browser does not say who asks: it is told what not to do with the answer."""
    async with serve() as client:
        for path in ("/", "/docs", "/jobs", "/nothing", "/stats", "/page/app.js"):
            headers = (await client.get(path)).headers
            assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff", path
            assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_link_from_elsewhere_may_lead_here(serve: Serve) -> None:
    visit = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        **CHROME,
        **OWN,
    }
    async with serve() as client:
        for path in ("/", "/docs", "/stats"):
            assert (await client.get(path, headers=visit)).status_code == 200
        frame = visit | {"Sec-Fetch-Dest": "iframe"}
        assert (await client.get("/", headers=frame)).status_code == 403
        assert (await client.get("/stream?prompt=x", headers=visit)).status_code == 403
        assert (await client.post("/stream", content='{"prompt": "x"}', headers=visit | FORM)).status_code == 403
        assert jobs(client) == 0


@pytest.mark.parametrize(
    "headers",
    [
        CHROME,
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Referer": "http://127.0.0.1:8000/"},
        {"Accept": "image/avif,image/webp,*/*;q=0.8"},
        {"Accept": "text/html,*/*"},
        {"sec-ch-ua": '"Chromium";v="150"'},
        {"Origin": "http://127.0.0.1:8000"},
    ],
)
async def test_a_get_of_a_browser_starts_nothing(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as client:
        answer = await client.get("/stream?prompt=x", headers=OWN | headers)
        assert answer.status_code == 403 and "a GET of a browser starts nothing" in answer.text
        for kind in ({}, FORM, {"Content-Type": "text/plain"}):
            form = await client.post("/stream", content='{"prompt": "x"}', headers=OWN | headers | kind)
            assert form.status_code == 403 and "send Content-Type: application/json" in form.text
        assert jobs(client) == 0
        own = await client.post("/stream", json={"prompt": "x", "max_new_tokens": 2}, headers=OWN | headers)
        assert own.status_code == 200 and jobs(client) == 1


async def test_what_curl_sends_goes_on_working(serve: Serve) -> None:
    curl = {"User-Agent": "curl/8.5.0", "Accept": "*/*", **OWN}
    async with serve() as client:
        answer = await client.get("/stream?prompt=x&max_new_tokens=2", headers=curl)
        assert answer.status_code == 200 and "event: done" in answer.text
        for kind in ({}, FORM, {"Content-Type": "application/json"}):
            answer = await client.post("/stream", content='{"prompt": "x", "max_length": 4}', headers=curl | kind)
            assert answer.status_code == 200, kind


@pytest.mark.parametrize(
    "kind", [{}, FORM, {"Content-Type": "text/plain"}, {"Content-Type": "text/plain; application/json"}]
)
async def test_whatever_starts_work_is_said_to_be_json(serve: Serve, kind: dict[str, str]) -> None:
    """A beacon or a form cannot say so without being asked first; a Blob without a type says nothing at all."""
    async with serve() as client:
        for path in (
            "/generate", "/generate/stream", "/chat", "/jobs", "/v1/generate", "/v1/generate_nobatch", "/send_text",
            "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize",
        ):  # fmt: skip
            fields = '{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "tokens": [1]}'
            answer = await client.post(path, content=fields, headers=kind)
            assert answer.status_code in (400, 422) and "Content-Type: application/json" in answer.text, path
        assert jobs(client) == 0


async def test_pages_that_are_allowed(serve: Serve) -> None:
    page = "http://page.example:3000"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for given in (page, f"{page}/", "*"):
        async with serve(cors_origins=given) as client:
            headers = {**OWN, "Origin": page, "Sec-Fetch-Site": "cross-site"}
            assert (await client.options("/generate", headers=headers | ask)).status_code == 200
            answer = await client.post("/generate", json=BODY, headers=headers)
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] in (page, "*")
            if given != "*":
                other = {**OWN, "Origin": "http://page.example:3001"}
                assert (await client.options("/generate", headers=other | ask)).status_code in (400, 403)
                assert (await client.post("/generate", json=BODY, headers=other)).status_code == 403
            assert (await client.get("/stream?prompt=x", headers=headers | CHROME)).status_code == 403


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"allowed_hosts": "http://x.example"}, "NAME or NAME:PORT, without http://"),
        ({"allowed_hosts": "x.example/llm"}, "without a path"),
        ({"allowed_hosts": "a b"}, "no name of a host"),
        ({"cors_origins": "page.example"}, "give http://NAME:PORT"),
        ({"cors_origins": "http://page.example/app"}, "without a path"),
        ({"root_path": "llm"}, "such as /llm"),
        ({"root_path": "//evil.example"}, "such as /llm"),
        ({"root_path": '/"><script>'}, "such as /llm"),
        ({"root_path": "/a/../b"}, "such as /llm"),
        ({"forwarded_allow_ips": "proxy"}, "neither an address nor a network"),
    ],
)
def test_settings_that_cannot_be_meant(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FastServeConfig(**given)


# -- behind a path -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/llm", "/a/b", "/chat", "/v1"])
async def test_a_prefix_that_a_proxy_cuts_off(serve: Serve, root: str) -> None:
    for settings, headers in (({"root_path": f"{root}/"}, {}), ({}, {"X-Forwarded-Prefix": root})):
        async with serve(**settings) as client:
            await behind(client, root, "", headers)


async def test_a_prefix_that_a_proxy_leaves(serve: Serve) -> None:
    async with serve(root_path="/llm") as client:
        await behind(client, "/llm", "/llm", {})
        assert (await client.get("/llm", follow_redirects=True)).status_code == 200


async def behind(client: Client, root: str, before: str, headers: dict[str, str]) -> None:
    async def get(path: str) -> Any:
        return await client.get(before + path, headers=headers)

    assert f'<base href="{root}/">' in (await get("/")).text
    assert (await get("/page/app.js")).status_code == 200
    for docs in ("/docs", "/redoc"):
        text = (await get(docs)).text
        assert f"{root}/openapi.json" in text and f"{root}/static-offline-docs/" in text
    assert (await get("/static-offline-docs/swagger-ui.css")).status_code == 200
    assert (await get("/openapi.json")).json()["servers"] == [{"url": root}]
    sent = await client.post(f"{before}/jobs", json=BODY, headers=headers)
    assert sent.headers["location"] == f"{root}/jobs/{sent.json()['job_id']}"
    slash = await client.get(f"{before}/jobs/", headers=headers)
    assert slash.status_code == 307 and slash.headers["location"] == f"{root}/jobs"
    wrong = await client.post(f"{before}/v1/completions", json={"prompt": 1}, headers=headers)
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "prompt"
    chat = {"messages": [{"role": "user", "content": "a"}], "max_new_tokens": 1}
    assert (await client.post(f"{before}/chat", json=chat, headers=headers)).status_code == 200
    stream = await client.post(f"{before}/generate/stream", json=BODY, headers=headers)
    assert every_data_line(stream.text)[-1]["is_final"]


async def test_what_is_open_stays_so_behind_a_path(serve: Serve) -> None:
    async with serve(root_path="/llm", api_key="s3cret") as client:
        for path in ("/health", "/llm/health", "/ping", "/llm/ping", "/", "/llm/", "/llm/page/app.js"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/jobs", "/llm/jobs", "/llm/healthy/../jobs"):
            assert (await client.get(path)).status_code != 200, path


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/a//b", "http://evil.example", '/"onload="x', "/..", "/a/..", "llm", "/a b"]
)
async def test_a_prefix_that_is_none(serve: Serve, prefix: str) -> None:
    async with serve() as client:
        answer = await client.post("/jobs", json=BODY, headers={"X-Forwarded-Prefix": prefix})
        assert answer.headers["location"].startswith("/jobs/")
        page = await client.get("/docs", headers={"X-Forwarded-Prefix": prefix})
        assert "evil" not in page.text and "onload" not in page.text


async def test_only_a_trusted_proxy_is_believed(serve: Serve) -> None:
    headers = {"X-Forwarded-Prefix": "/llm", "X-Forwarded-Host": "llm.example"}
    async with serve(forwarded_allow_ips="10.0.0.0/8") as client:  # this client is at 127.0.0.1
        answer = await client.post("/jobs", json=BODY, headers=headers)
        assert answer.headers["location"].startswith("/jobs/")
    async with serve() as client:
        refused = await client.get("/health", headers=headers)
        assert refused.status_code == 403 and "--allowed-hosts llm.example" in refused.text
    async with serve(allowed_hosts="llm.example") as client:
        own = {**headers, "Host": "127.0.0.1:8000", "Origin": "http://llm.example"}
        assert (await client.post("/generate", json=BODY, headers=own)).status_code == 200


async def test_two_slashes_do_not_lead_elsewhere(serve: Serve) -> None:
    async with serve() as client:
        for path in ("//evil.example/", "//evil.example/%2e%2e", "/\\evil.example/"):
            location = (await client.get(f"http://test{path}")).headers.get("location", "/")
            assert not location.startswith(("//", "/\\")), path
