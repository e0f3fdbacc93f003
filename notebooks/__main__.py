"""python -m notebooks: executes every notebook in a kernel of its own; build/notebooks/NAME.html, .ipynb and figures.

The file NAME.py is the notebook, NAME.ipynb its copy without outputs for those who open it in Jupyter; `--pair` writes
the copies. Runs made here from the present source are read, else those of scale small that are committed. At the smoke
scale missing runs are made; at any other, what is missing is said.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from experiments._lib.committed_rows import available
from experiments._lib.sweep import SCALES, IncompleteError, guarded, sweep
from fastserve.atomic_files import atomically
from notebooks._page import FIGURES

FOLDER = Path(__file__).resolve().parent
NAMES = ("what_mlfq_buys", "why_skip_join", "where_swapping_hurts", "your_own_trace", "when_it_collapses",
         "when_agents_thrash", "what_to_believe", "simulated_against_live")  # fmt: skip
"""in the order in which to read them"""
CELL_SECONDS = 300  # after which a cell counts as stuck
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError)


def source(name: str) -> Path:
    return FOLDER / f"{name}.py"


def reads(name: str) -> list[str]:
    """The experiments whose runs a notebook reads: the literal arguments of its Runs()."""
    tree = ast.parse(source(name).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    mine = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Runs"]
    return [str(value.value) for call in mine for value in call.args if isinstance(value, ast.Constant)]


def title(name: str) -> str:
    """The heading of its first text."""
    lines = source(name).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("# # ")).removeprefix("# # ")


def paired(name: str) -> str:
    """The text of NAME.ipynb: the cells of NAME.py without outputs, numbered, so that equal cells give equal text."""
    notebook = jupytext.read(source(name))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    return str(nbformat.writes(notebook, version=4)) + "\n"  # type: ignore[no-untyped-call]


async def execute(name: str, scale: str | None) -> tuple[int, float]:
    """Runs one notebook and writes its page. Returns cells and seconds. Raises one of FAILURES."""
    began = time.perf_counter()
    notebook = jupytext.read(source(name))
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--log-level=ERROR"],
    )
    await client.async_execute(env=os.environ | ({"FASTSERVE_SCALE": scale} if scale else {}))
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)  # type: ignore[no-untyped-call]
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": name}})
    with atomically(FIGURES / f"{name}.html") as draft:
        draft.write_text(page, encoding="utf-8")
    with atomically(FIGURES / f"{name}.ipynb") as draft:  # with its outputs, for the site of `make docs`
        nbformat.write(notebook, draft)  # type: ignore[no-untyped-call]
    return len(notebook.cells), time.perf_counter() - began


async def execute_all(names: Sequence[str], scale: str | None, jobs: int) -> int:
    """Executes them, `jobs` at a time, and tells of each. Returns how many failed."""
    free = asyncio.Semaphore(jobs)

    async def one(name: str) -> tuple[str, tuple[int, float] | Exception]:
        async with free:
            try:
                return name, await execute(name, scale)
            except FAILURES as error:
                return name, error

    failed = 0
    for number, done in enumerate(asyncio.as_completed([one(name) for name in names]), 1):
        name, outcome = await done
        head = f"[{number}/{len(names)}] {name}"
        if isinstance(outcome, Exception):
            failed += 1
            print(f"{head} failed\n{outcome}", file=sys.stderr, flush=True)
        else:
            cells, seconds = outcome
            page = os.path.relpath(FIGURES / f"{name}.html")
            print(f"{head}: {cells} cells, {seconds:.0f} s, {page}", flush=True)
    return failed


def run(names: Sequence[str], scale: str | None, jobs: int) -> int:
    """Makes or asks for the runs that the notebooks need, then executes them. Returns 1 where that was not all."""
    needed = list(dict.fromkeys(experiment for name in names for experiment in reads(name)))
    try:
        if scale == "smoke":
            for experiment in needed:
                sweep(experiment, scale)
        elif scale is not None:
            for experiment in needed:
                available(experiment, scale)
    except IncompleteError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if asyncio.run(execute_all(names, scale, jobs)) else 0


def pair(names: Sequence[str]) -> int:
    """Writes the copies that differ."""
    for name in names:
        path, text = FOLDER / f"{name}.ipynb", paired(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with atomically(path) as draft:
                draft.write_text(text, encoding="utf-8")
            print(f"wrote {os.path.relpath(path)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m notebooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--scale", choices=SCALES, help="of the runs (default: small)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="notebooks at once")
    parser.add_argument("--pair", action="store_true", help="write NAME.ipynb from NAME.py and execute nothing")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no notebook {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = args.names or NAMES
    return guarded(lambda: pair(names) if args.pair else run(names, args.scale, args.jobs))


if __name__ == "__main__":
    sys.exit(main())
