"""`fastserve vllm` as a child process, as a user starts it, on a tiny model or on a trained one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx

from fastserve.cache_folder import cache_folder

ROOT = Path(__file__).resolve().parents[2]
MADE = sorted((cache_folder() / "gguf").glob("SmolLM2-135M-Instruct*-float32-*/model.safetensors"))
TRAINED = os.environ.get("FASTSERVE_TRAINED_MODEL") or (str(MADE[0].parent) if MADE else None)
"""A folder as `make test-trained` leaves it in the cache; without one the tiny model serves."""

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip
FLAGS = ("--dtype", "float32", "--block-size", "32", "--max-model-len", "1024", "--enforce-eager",
         "--served-model-name", "m")  # fmt: skip
START_S = 600
NO_ENGINE = "vLLM and its compiled kernels are not installed here"


def runs() -> bool:
    """Whether an engine of vLLM can run here: of a release whose text alone is unpacked none can."""
    spec = find_spec("vllm")
    folders = () if spec is None else spec.submodule_search_locations or ()
    return any(list(Path(folder).glob("_C*")) for folder in folders)


def environment() -> dict[str, str]:
    """This process's, with what ENVIRONMENT says and with this package, and without what made-up runners have set."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if name != "VLLM_USE_V2_MODEL_RUNNER"}
    return {**own, **ENVIRONMENT, "PYTHONPATH": paths}


def tiny_model(folder: Path) -> None:
    """A Llama with seeded weights, and a tokenizer of printable characters, one a token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {chr(32 + id): id for id in range(95)} | {"</s>": 95}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    made.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    made.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.15, bos_token_id=None, eos_token_id=95,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)


class Server:
    """Started by start(), serving after ready(). log: what it has written."""

    def __init__(self, model: str | Path, words: Sequence[str], folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.file = folder / "server.log"
        command = [
            sys.executable, "-m", "fastserve", "vllm", str(model), *words, "--", *FLAGS, "--host", "127.0.0.1",
            "--port", str(self.port),
        ]  # fmt: skip
        with self.file.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=output, start_new_session=True, env=environment()
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.file.read_text(encoding="utf-8", errors="replace")

    def ready(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log[-5000:]
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(f"it does not serve after {START_S} s:\n{self.log[-5000:]}")

    def metrics(self) -> dict[str, float]:
        """Our names without fastserve_, and their labels but for model and engine -> their values."""
        found = {}
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith("fastserve_") and "_created" not in line:
                sample, value = line.rsplit(" ", 1)
                name, _, labels = sample.removeprefix("fastserve_").partition("{")
                own = [label for label in labels.rstrip("}").split(",") if not label.startswith(("engine=", "model_"))]
                found[" ".join([name, *own])] = float(value)
        return found

    def idle(self) -> dict[str, float]:
        """The metrics, when nobody runs, waits or is parked any more."""
        for _ in range(300):
            found = self.metrics()
            if not any(found[f"num_requests_{each}"] for each in ("running", "waiting", "parked")):
                return found
            time.sleep(0.1)
        raise AssertionError(f"somebody is left: {found}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left of its own session."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
