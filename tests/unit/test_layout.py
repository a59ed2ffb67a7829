"""The packaging and the import rules of docs/design.md, held by tests."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPED = {"qcc": ROOT / "qcc", "qcc.passes": ROOT / "passes", "qcc.backends": ROOT / "backends"}

# package -> what of qcc it may import (itself is always allowed)
MAY_IMPORT = {
    "qcc.errors": set[str](),
    "qcc.cache": {"qcc.errors"},
    "qcc.numerics": {"qcc.errors"},
    "qcc.ir": {"qcc.errors", "qcc.numerics"},
    "qcc.frontend": {"qcc.errors", "qcc.numerics", "qcc.ir"},
    "qcc.interpreter": {"qcc.errors", "qcc.numerics", "qcc.ir"},
    "qcc.calibrate": {"qcc.errors", "qcc.numerics", "qcc.ir", "qcc.interpreter", "qcc.calling"},
    "qcc.recipes": {"qcc.errors", "qcc.numerics", "qcc.ir"},
    "qcc.passes": {
        "qcc.errors",
        "qcc.numerics",
        "qcc.ir",
        "qcc.recipes",
        "qcc.version",
        # statistics only: running samples is the driver's affair
        "qcc.calibrate.statistics",
        "qcc.calibrate.histogram",
        "qcc.calibrate.ranges",
    },
    # what torch computes between the kernels of a GPU follows the meanings of the interpreter's table
    "qcc.backends.triton": {
        "qcc.cache",
        "qcc.errors",
        "qcc.numerics",
        "qcc.ir",
        "qcc.interpreter",
        "qcc.version",
        "qcc.backends",
    },
    "qcc.backends": {"qcc.cache", "qcc.errors", "qcc.numerics", "qcc.ir"},
}


def python_files() -> list[tuple[str, Path]]:
    found = []
    for package, folder in MAPPED.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "qcc" and parts[0] in ("passes", "backends"):
                continue
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found.append((name, path))
    return found


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name == "qcc" or name.startswith("qcc.")}


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for package, folder in MAPPED.items():
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(folder).parts
            if package == "qcc" and parts and parts[0] in ("passes", "backends"):
                continue
            found.add(".".join((package, *parts)))
    assert found == listed


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_links_lead_to_the_mapped_folders(name: str) -> None:
    assert (ROOT / "qcc" / name).resolve() == (ROOT / name).resolve()


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_importing_without_the_prefix_is_refused(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert f"import qcc.{name}" in run.stderr


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    for name, path in python_files():
        room = next((room for room in MAY_IMPORT if name == room or name.startswith(room + ".")), None)
        if room is None:
            continue
        for target in imports_of(path):
            allowed = MAY_IMPORT[room] | {room}
            if not any(target == one or target.startswith(one + ".") for one in allowed) and target != "qcc":
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_backends_never_import_one_another() -> None:
    wrong = []
    folders = {path.name for path in (ROOT / "backends").iterdir() if (path / "__init__.py").is_file()}
    for name, path in python_files():
        parts = name.split(".")
        if parts[:2] != ["qcc", "backends"] or len(parts) < 4:
            continue
        for target in imports_of(path):
            other = target.split(".")
            if other[:2] == ["qcc", "backends"] and set(other[2:3]) & folders - {parts[2]}:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_import_circles() -> None:
    files = dict(python_files())
    graph = {name: {t for t in imports_of(path) if t in files and t != name} for name, path in files.items()}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        assert state.get(name) != 1, f"circle: {' -> '.join((*trail, name))}"
        state[name] = 1
        for target in sorted(graph[name]):
            visit(target, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", ["qcc", "qcc.opt", "qcc.cli"])
def test_light_imports_leave_torch_alone(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_stay_small() -> None:
    long = {str(path): n for _, path in python_files() if (n := len(path.read_text().splitlines())) > 420}
    assert not long


def test_nothing_is_pickled() -> None:
    forbidden = (
        "import pickle",
        "from pickle",
        "torch.save(",
        "torch.load(",
        "allow_pickle=True",
        "import cloudpickle",
    )
    found = [(str(path), word) for _, path in python_files() for word in forbidden if word in path.read_text("utf-8")]
    assert not found
