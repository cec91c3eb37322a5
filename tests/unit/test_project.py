"""The project keeps its own rules: commands, versions, docstrings, sizes, cost of importing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "resilient"
MAX_LINES = 450

LAZY = {"asyncio", "hypothesis", "msgspec", "pytest", "redis", "sqlite3", "tenacity"}
"""What `import resilient` must not import: it is slow, or used by few."""


def python_files(*directories: Path) -> Iterator[Path]:
    """The Python files below these directories, in order."""
    for directory in directories:
        yield from sorted(directory.rglob("*.py"))


def fresh_python(code: str) -> str:
    """What a new interpreter prints when it runs this code in the project's directory."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_block_below(heading: str, text: str) -> str:
    """The first fenced block below a heading of a Markdown text."""
    found = re.search(rf"^#+ {heading}$.*?^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, f"no command below {heading!r}"
    return found[1].strip()


@pytest.mark.parametrize(
    ("heading", "extra", "last"),
    [
        ("Run the main example", "'.[examples]'", "examples/import_airports.py"),
        ("Run the tests", "'.[test]'", "-m tests"),
    ],
)
def test_ci_runs_the_commands_of_the_readme(heading: str, extra: str, last: str) -> None:
    """CI takes both commands from the README by their headings, and each is one line."""
    command = code_block_below(heading, (ROOT / "README.md").read_text())
    assert "\n" not in command
    assert extra in command
    assert command.endswith(last)
    assert f"readme_command '{heading}'" in (ROOT / ".ci" / "run").read_text()


def test_version_is_one() -> None:
    """The package and its metadata name the same version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert getattr(resilient, "__version__", None) == project["version"]


def test_every_public_name_exists() -> None:
    """`__all__` is sorted, and each name in it is there."""
    names = list(resilient.__all__)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(resilient, name)] == []


def test_entry_points_lead_somewhere() -> None:
    """Every entry point in the metadata names a module that can be imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    modules = {m for group in project.get("entry-points", {}).values() for m in group.values()}
    code = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", code, *sorted(modules)], cwd=ROOT, check=True)


def test_every_test_has_a_docstring() -> None:
    """Each test function states in a line what it shows."""
    without = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files(ROOT / "tests", PACKAGE / "testing")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert without == []


def test_files_stay_short() -> None:
    """No file of the package is so long that it should be two."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in python_files(PACKAGE)
    }
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_what_a_check_must_not_see_has_a_reason() -> None:
    """Each `type: ignore` and `noqa` says on its line why it is there."""
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(
            PACKAGE, *(ROOT / name for name in ("tests", "examples", "benchmarks"))
        )
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"# (type: ignore\[[^\]]+\]|noqa: \w+(, \w+)*)\s*$", line)
    ]
    assert silent == []


def test_no_module_imports_the_public_names() -> None:
    """The top of the package is for users: inside, names come from where they are defined."""
    submodules = {path.stem for path in PACKAGE.iterdir()}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(PACKAGE)
        if path != PACKAGE / "__init__.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "resilient"
            and {alias.name for alias in node.names} - submodules
        )
        or (isinstance(node, ast.Import) and any(alias.name == "resilient" for alias in node.names))
    ]
    assert wrong == []


@pytest.mark.timing
@pytest.mark.timing
def test_import_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import resilient` takes at most twice as long as `import asyncio`, minima of many runs.

    Of the processor's time, which a busy machine stretches less.
    """
    # Both compiled before, as an installed package is: CI writes no bytecode otherwise.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    code = (
        "import time; began = time.process_time(); import {module}; "
        "print(time.process_time() - began)"
    )
    best = {"asyncio": float("inf"), "resilient": float("inf")}
    for done in range(60):
        for module in best:
            best[module] = min(best[module], float(fresh_python(code.format(module=module))))
        if done >= 15 and best["resilient"] <= 2 * best["asyncio"]:
            break  # else a busy machine may not have shown the least of one of them yet
    assert best["resilient"] <= 2 * best["asyncio"]


def test_import_does_nothing() -> None:
    """`import resilient` starts no thread, opens nothing, and leaves slow modules alone."""
    code = f"""
import json, os, sys, threading
before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
import resilient
after = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
print(json.dumps([
    [thread.name for thread in threading.enumerate()],
    before == after,
    sorted(set(sys.modules) & {LAZY!r}),
]))
"""
    assert json.loads(fresh_python(code)) == [["MainThread"], True, []]
