"""What stands for `fastserve serve` in tests: it answers, asks for its key, and does what its model's path says.

ok, slow:S (ready after S seconds), fail (says why and ends), never (is not ready), die:S (ends S seconds after).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

settings = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
key, client = os.environ["FASTSERVE_API_KEY"].split()
assert client == "*", "the gateway says whose a request is"
lora = list(settings.get("lora", []))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.headers.get("Authorization") != f"Bearer {key}":
            return self._send(401, {"error": "key"})
        if self.path == "/v1/models":
            return self._send(200, {"data": [{"id": settings["served_model_name"], "owned_by": "fastserve"}]})
        if self.path == "/v1/load_lora_adapter":
            lora.append(f"{body['lora_name']}={body['lora_path']}")
            return self._send(200, {"done": True})
        if self.path == "/v1/unload_lora_adapter":
            lora[:] = [each for each in lora if not each.startswith(f"{body['lora_name']}=")]
            return self._send(200, {"done": True})
        if seconds := body.get("seconds"):
            time.sleep(seconds)
        choices = [{"index": 0, "text": "hello", "finish_reason": "stop"}]
        found = {"pid": os.getpid(), "settings": settings, "lora": lora, "choices": choices}
        return self._send(200, found | {"clients": self.headers.get_all("X-FastServe-Client")})

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    kind, _, seconds = settings["model"].partition(":")
    print(f"loading {settings['model']}", flush=True)
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
    if kind == "fail":
        print(f"the reason why {key} does not help", flush=True)
        sys.exit(3)
    if kind == "never":
        time.sleep(600)
    if kind == "slow":
        time.sleep(float(seconds))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"serving at http://127.0.0.1:{server.server_address[1]} (page /)", flush=True)
    if kind == "die":
        threading.Timer(float(seconds), os._exit, (7,)).start()
    server.serve_forever(0.05)


main()
