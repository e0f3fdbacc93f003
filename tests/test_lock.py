"""requirements/constraints.txt is a whole lock: each requirement of pyproject.toml has a pin within its bounds."""

import re
import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SYSTEMS = [
    {"sys_platform": platform, "platform_system": system, "platform_machine": machine, "python_full_version": python}
    for platform, system, machine in (
        ("linux", "Linux", "x86_64"), ("darwin", "Darwin", "arm64"), ("win32", "Windows", "AMD64"),
    )
    for python in ("3.11.9", "3.13.1")
]  # fmt: skip


def pins(name: str):
    """Each pin of this file as a requirement."""
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            yield packaging.Requirement(text)


def unlocked() -> list[str]:
    """Extras that the Makefile leaves out of the lock, and why is said there."""
    (names,) = re.findall(r"^UNLOCKED := (.+)$", MAKEFILE, re.MULTILINE)
    return str(names).split()


def wanted():
    """Each requirement of the package, of its locked extras and of its build, without those on itself."""
    texts = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for name, extra in PYPROJECT["project"]["optional-dependencies"].items():
        texts += [] if name in unlocked() else extra
    return [each for text in texts if (each := packaging.Requirement(text)).name != PYPROJECT["project"]["name"]]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "system", SYSTEMS, ids=lambda system: f"{system['sys_platform']}-{system['python_full_version']}"
)
def test_each_requirement_has_one_pin_within_its_bounds(system: dict[str, str]) -> None:
    locked: dict[str, str] = {}
    for pin in pins("constraints.txt"):
        if pin.marker is None or pin.marker.evaluate(system):
            (exact,) = pin.specifier
            assert exact.operator == "==" and canonical(pin.name) not in locked, pin
            locked[canonical(pin.name)] = exact.version
    for each in wanted():
        if each.marker is None or each.marker.evaluate(system):
            version = locked.get(canonical(each.name))
            assert version and each.specifier.contains(version), f"{each}: locked is {version}; run make upgrade"


def test_what_is_held_is_locked_so() -> None:
    locked = {canonical(pin.name): pin.specifier for pin in pins("constraints.txt")}
    for held in pins("held.txt"):
        (exact,) = locked[canonical(held.name)]
        assert held.specifier.contains(exact.version), f"{held}: run make upgrade"


def test_the_lock_holds_no_address_no_option_and_no_local_build() -> None:
    text = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*-| @ |--hash|==\S*\+", text, re.MULTILINE)


def test_what_is_not_locked_is_an_extra_of_its_own() -> None:
    """No other extra asks for it, so that no target installs it into the project's environment."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert unlocked() == ["vllm", "llamacpp"] and "$(UNLOCKED)" in MAKEFILE and "--all-extras" not in MAKEFILE
    packages = {packaging.Requirement(text).name for name in unlocked() for text in extras[name]}
    for name, texts in extras.items():
        for each in map(packaging.Requirement, texts):
            assert name in unlocked() or not (each.name in packages or each.extras & set(unlocked())), f"{name}: {each}"
    assert packages.isdisjoint({canonical(pin.name) for pin in pins("constraints.txt")})


def test_the_environment_of_vllm_is_locked_too() -> None:
    """What make test-vllm installs: vLLM's CPU build, what its tests need, and this package's sim."""
    locked = {}
    for pin in pins("vllm.txt"):
        (exact,) = pin.specifier
        assert exact.operator == "==", pin
        locked[canonical(pin.name)] = exact.version
    sim = [packaging.Requirement(text) for text in PYPROJECT["project"]["optional-dependencies"]["sim"]]
    for each in [*pins("vllm.in"), *sim]:
        version = locked.get(canonical(each.name))
        assert version and each.specifier.contains(version), f"{each}: locked is {version}; run make upgrade"
    left_out = {canonical(one.name) for one in pins("vllm-overrides.txt")}
    assert not left_out & set(locked)
    text = (ROOT / "requirements" / "vllm.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*-| @ |--hash", text, re.MULTILINE)
