"""The packages' arrows run one way, importing is light, and no file or function is too long to read."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ast_hf
from tests.conftest import REPOSITORY

FILES = [REPOSITORY / "app.py", *REPOSITORY.glob("ast_hf/**/*.py"), *REPOSITORY.glob("benchmark/**/*.py")]
HEAVY = {"torch", "timm", "gradio", "datasets", "matplotlib", "sklearn"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text("utf-8")) for path in FILES}


def imported(name: str) -> set[str]:
    """The project's own modules that a module names in any import, type-only and local ones included."""
    found: set[str] = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # A name out of a package is a module of it, or the package's own.
            found |= {full if (full := f"{node.module}.{a.name}") in MODULES else str(node.module) for a in node.names}
    return found & MODULES.keys() - {name}


def test_no_module_imports_itself_around_a_corner() -> None:
    tuple(TopologicalSorter({name: imported(name) for name in MODULES}).static_order())  # raises CycleError


def test_arrows_between_the_packages_run_one_way() -> None:
    pytest.importorskip("importlinter")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["-c import~ast_hf", "-m ast_hf --help", "-m benchmark.run --help"])
def test_starting_imports_nothing_heavy(command: str) -> None:
    arguments = [sys.executable, "-X", "importtime", *(word.replace("~", " ") for word in command.split())]
    done = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0 and "ast_hf" in modules, done.stderr[-500:]
    assert not modules & HEAVY


def test_every_public_name_is_there() -> None:
    for name in ast_hf.__all__:
        assert getattr(ast_hf, name) is not None and name in dir(ast_hf)
    with pytest.raises(AttributeError, match="no_such_name"):
        ast_hf.no_such_name  # noqa: B018


def test_no_file_is_longer_than_300_lines_and_no_function_than_60() -> None:
    long = [path.name for path in FILES if len(path.read_text("utf-8").splitlines()) > 300]
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{name}.{node.name}")
    assert long == []
