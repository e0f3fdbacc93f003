"""What scripts/compile.py compiles: interpreted code may only inherit from the classes that it opens."""

import ast
import runpy
from pathlib import Path

from fastserve.policies import POLICIES

ROOT = Path(__file__).parent.parent


def classes(path: Path) -> dict[str, set[str]]:
    """Each class of a file and the names of its bases."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            found[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return found


def imported(path: Path) -> dict[str, str]:
    """The names that a file imports, and the file that each comes from, as it stands in the repository."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = node.module.replace(".", "/") + ".py"
    return found


def test_interpreted_classes_inherit_only_from_open_ones() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "compile.py"))
    compiled = {ROOT / path for path in script["MODULES"]}
    opened = {name for names in script["OPEN"].values() for name in names}
    closed = {name for path in compiled for name in classes(path)} - opened
    heirs = 0
    for package in ("fastserve", "sim", "examples", "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path in compiled:
                continue
            came = imported(path)
            for name, bases in classes(path).items():
                others = {base for base in bases if base in came and (ROOT / came[base]).exists()}
                bases -= {base for base in others if ROOT / came[base] not in compiled}  # another class of that name
                bases -= classes(path).keys()
                assert not bases & closed, f"{path.relative_to(ROOT)}: {name} inherits from {bases & closed}"
                heirs += bool(bases & opened)
    assert heirs > 3


def test_every_policy_of_the_table_is_compiled_and_open() -> None:
    """One that is left out is called the slow way, and its own base too; a closed one breaks a user's subclass."""
    script = runpy.run_path(str(ROOT / "scripts" / "compile.py"))
    for name, policy in POLICIES.items():
        assert policy.__module__.replace(".", "/") + ".py" in script["MODULES"], f"{name} is not compiled"
        opened = script["OPEN"].get(policy.__module__.replace(".", "/") + ".py", ())
        assert policy.__name__ in opened, f"compiled, no policy of a user's own could inherit from {name}"
