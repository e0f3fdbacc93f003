"""The house of docs/design.md, held: which room may import which, no circles, where torch lives, short files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TREES = ("fastserve", "sim", "experiments", "notebooks")

LEAVES = (
    "atomic_files", "cache_folder", "formats", "html_table", "http_client", "importing", "json_values", "named_models",
    "ollama_api", "package_version", "server_kinds",
)  # fmt: skip
"""Single files at the top that import nothing of the house and that every room may import."""

ARROWS: dict[str, set[str]] = {
    "sched": set(),
    **{leaf: set() for leaf in LEAVES},
    "hardware": {"sched"},
    "speculation": {"sched", "hardware"},
    "policies": {"sched"},
    "routers": {"sched"},
    "predictors": {"sched"},
    "workload": {"sched", "predictors", "metrics"},
    "metrics": {"sched"},
    "observers": {"sched", "hardware"},
    "flightlog": {"sched", "policies", "routers", "hardware"},
    "engine": {"sched", "policies", "predictors", "hardware", "workload", "metrics", "observers", "flightlog"},
    "models": {"engine"},
    "backends": {"engine", "sched", "hardware", "models", "speculation"},
    "vllm": {"sched", "policies", "hardware", "observers", "flightlog", "metrics"},
    "launch": {"engine", "backends", "hardware", "profiler", "sched"},
    "profiler": {"speculation", "launch", "engine", "flightlog", "hardware", "policies", "sched"},
    "bench": {"metrics", "predictors", "sched", "workload"},
    "jobqueue": {"sched"},
    "deploy": {"gateway", "server", "backends", "sched"},
    "gateway": {"routers", "server", "flightlog", "sched", "jobqueue", "processes"},
    "server": {
        "jobqueue",
        "launch", "engine", "backends", "hardware", "policies", "predictors", "sched", "observers", "speculation",
        "workload",
    },
    "config": {"server"},
    "processes": {"backends", "cli"},
    "cli": {
        "fastserve", "compare", "bench", "server", "profiler", "launch", "engine", "backends", "observers", "policies",
        "predictors", "routers",
        "workload", "metrics", "hardware", "sched", "vllm", "gateway", "jobqueue", "deploy",
    },
    "compare": {
        "bench", "cli", "profiler", "launch", "engine", "backends", "hardware", "metrics", "policies", "predictors",
        "workload", "sched", "vllm", "processes",
    },
    "fastserve": {"sched", "policies", "routers", "server"},
    "sim": {
        "sched", "policies", "routers", "predictors", "workload", "metrics", "observers", "hardware", "speculation",
        "flightlog", "cli",
    },
}  # fmt: skip
"""Room -> the rooms that it may import; experiments and notebooks may import all. docs/design.md says why."""

CALLED_LATE = {("fastserve.engine.engine", "fastserve.launch")}
"""Engine.from_pretrained() is where users look for it, and launch is what knows how: imported when it is called."""

LONGEST = 400


def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name."""
    found = {}
    for tree in TREES:
        for path in (ROOT / tree).rglob("*.py"):
            found[str(path.relative_to(ROOT))[:-3].replace("/", ".").removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """What a file imports of the house, anywhere in it, type checking included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from [whole] if whole in known else [node.module] if node.module in known else []


@cache
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def room(module: str) -> str:
    """fastserve.engine.loop -> engine, sim.world -> sim; fastserve.__main__ belongs to the command line."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0].replace("__main__", "cli") if top == "fastserve" and rest else top


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other in a loop (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_no_circles() -> None:
    late = {name: {other for other in found if (name, other) not in CALLED_LATE} for name, found in graph().items()}
    assert circles(late) == []


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_arrows(name: str) -> None:
    """An import against the arrows: find the natural place, or improve docs/design.md and say why."""
    against = {
        f"{module} -> {other}"
        for module, found in graph().items()
        if room(module) == name
        for other in found
        if room(other) not in {name, *LEAVES, *ARROWS[name]} and (module, other) not in CALLED_LATE
    }
    assert against == set()


def test_every_room_has_its_arrows() -> None:
    assert {room(module) for module in graph()} == {*ARROWS, "experiments", "notebooks"}


def test_what_is_imported_late_is_imported_inside_a_function() -> None:
    for name, other in CALLED_LATE:
        tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
        outside = {
            node.module
            for part in tree.body
            if not isinstance(part, ast.ClassDef | ast.FunctionDef)
            for node in ast.walk(part)
            if isinstance(node, ast.ImportFrom)
        }
        assert other not in outside and other in graph()[name]


def test_a_backend_knows_the_seam_and_no_other_backend() -> None:
    kinds = {module.split(".")[2] for module in graph() if module.startswith("fastserve.backends.")} - {"options"}
    for module, found in graph().items():
        if not module.startswith("fastserve.backends."):
            continue
        own = module.split(".")[2]
        others = {other for other in found if other.startswith("fastserve.backends.") and other.split(".")[2] in kinds}
        assert {other for other in others if other.split(".")[2] != own} == set(), module


def test_torch_lives_in_one_backend() -> None:
    """transformers too, but for the tokenizer of a benchmark's text prompts, of an exported model and of an upstream's,
    which need no torch, and for chat templates of one's own. What runs in vLLM's process makes vLLM a small model.
    """
    found = set()
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if any(other.partition(".")[0] in ("torch", "transformers") for other in names):
                found.add(name)
    assert {name for name in found if not name.startswith("fastserve.backends.torch.")} == {
        "fastserve.backends.onnx.tokenizer",
        "fastserve.backends.upstream.tokenizer",
        "fastserve.cli.bench",
        "fastserve.engine.byte_tokenizer",
        "experiments._lib.vllm_worker",
    }


def test_files_hold_one_idea() -> None:
    long = {name: lines for name, path in modules().items()
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST}  # fmt: skip
    assert long == {}


def test_each_package_says_what_it_is() -> None:
    packages = {name: path.read_text(encoding="utf-8") for name, path in modules().items() if path.stem == "__init__"}
    assert [name for name, text in packages.items() if not ast.get_docstring(ast.parse(text))] == []
