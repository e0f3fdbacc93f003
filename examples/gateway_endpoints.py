"""An API server of your own in front of model servers: endpoints of your own, by model name.

    fastserve serve --port 8001 &
    python examples/gateway_endpoints.py --port 8000 --upstream http://127.0.0.1:8001
    curl localhost:8000/ask/llama -d '{"question": "What is a llama?"}' -H 'Content-Type: application/json'
    curl -N localhost:8000/tell/llama

It maps names of its own to the models behind it, and answers two routes itself; all routes of a gateway (OpenAI's and
the rest, with retries, health checks and a router) are there too. It says that it serves once every upstream is there.
"""

import argparse

from fastapi import HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from fastserve.gateway import Gateway, GatewayConfig

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--upstream", action="append", required=True, metavar="URL")
args = parser.parse_args()

gateway = Gateway(GatewayConfig(port=args.port, upstream=args.upstream, router="least-tokens", wait_for_upstreams=60))


class Question(BaseModel):
    question: str
    max_tokens: int = 64


def model_of(name: str) -> str:
    """Names of ours -> models of the servers behind: here `llama` is whichever comes first."""
    known = {"llama": gateway.default_model}
    if name not in known:
        raise HTTPException(404, f"there is no {name!r}; there is {', '.join(known)}")
    return known[name]


@gateway.app.post("/ask/{name}")
async def ask(name: str, body: Question) -> dict[str, object]:
    """One answer, with sampling of its own."""
    messages = [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": body.question}]
    answer = await gateway.generate(model_of(name), messages, max_tokens=body.max_tokens, temperature=0)
    return {"answer": answer.text, "tokens": answer.usage.get("completion_tokens")}


@gateway.app.get("/tell/{name}")
async def tell(name: str) -> StreamingResponse:
    """A story as plain text, as it comes; who leaves early ends its generation."""
    return StreamingResponse(gateway.stream(model_of(name), "Once upon a time", max_tokens=64), media_type="text/plain")


if __name__ == "__main__":
    gateway.run()
