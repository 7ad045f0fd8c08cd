"""Imports go down the floors, and none is hidden in a function."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "trueup"
FLOORS = {
    "types": 0,
    "tensors": 0,
    "errors": 0,
    "config": 0,
    "settings": 0,
    "thresholds": 0,
    "ops": 1,
    "losses": 1,
    "data": 2,
    "models": 2,
    "runs": 2,
    "feedback": 3,
    "monitors": 3,
    "evals": 3,
    "reports": 3,
    "train": 4,
    "recipes": 5,
    "cli": 6,
    "web": 6,
}
# modules that own an optional heavy dependency, or hand out names lazily
OPTIONAL = {"runs/sinks.py", "__init__.py", "cli/main.py", "data/tables.py"}
FILES = sorted(SRC.rglob("*.py"))


def floor_of(module: str) -> int:
    return FLOORS[module.split(".")[1]]


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    name = path.relative_to(SRC).as_posix()
    if name == "__init__.py":
        return
    own = FLOORS[name.split("/")[0].removesuffix(".py")]
    for line, module in imports(ast.parse(path.read_text())):
        if module.startswith("trueup.") and module != "trueup":
            assert floor_of(module) <= own, f"{name}:{line} imports {module} from a floor above"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_import_hides_in_a_function(path: Path) -> None:
    name = path.relative_to(SRC).as_posix()
    if name in OPTIONAL:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = [line for inner in node.body for line, _ in imports(inner)]
            assert not hidden, f"{name}:{hidden[0]}: an import inside {node.name}"


def test_maths_needs_no_io_and_no_model() -> None:
    allowed = {
        "__future__",
        "torch",
        "numpy",
        "scipy",
        "jaxtyping",
        "math",
        "functools",
        "itertools",
        "inspect",
        "dataclasses",
        "typing",
        "collections",
        "trueup",
    }
    for folder in ("ops", "losses"):
        for path in (SRC / folder).glob("*.py"):
            for line, module in imports(ast.parse(path.read_text())):
                assert module.split(".")[0] in allowed, f"{path.name}:{line} imports {module}"
