"""Every Python block of the documentation does what it says: names, options and templates exist."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import re
import sqlite3
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

import resilient
from resilient import config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

NOT_RUN = {
    'connection.execute("UPDATE account SET ...")': "it needs a PostgreSQL server",
    "info.host, info.pid": "it needs somebody who holds the lock",
    "runs.resume(from_checkpoint=7)": "it needs a job that was stopped at its seventh checkpoint",
    "kill_at_random": "it starts a function of a module a hundred times",
}
"""What is compiled only."""

VALUES: dict[str, Any] = {"amount": 5, "value": "Ada", "receipt": "R-1"}
"""Stand-ins that are stored."""

AWAITING = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@dataclass(frozen=True)
class User:
    """What the pages call a user."""

    id: int = 7


class Page:
    """One page, whose blocks see what those before them have defined, as a reader does."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.names: dict[str, Any] = {"__name__": "page", "resilient": resilient, "User": User}

    def blocks(self) -> Iterator[tuple[int, str]]:
        """The first line and the code of each block that is no file of the repository."""
        for found in re.finditer(r"^( *)```python\n(.*?)^ *```", self.text, re.M | re.S):
            if "--8<--" not in found[2]:
                yield self.text.count("\n", 0, found.start()) + 2, textwrap.dedent(found[2])

    def run(self, code: str, where: str) -> None:
        """Run a block, with stand-ins for what the reader has to imagine."""
        tree = parsed(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in self.names:
                self.stand_in(node.id)
        compiled = compile(tree, where, "exec", flags=AWAITING, dont_inherit=True)
        if any(sign in code for sign in NOT_RUN):
            return
        with resilient.using("memory://") as self.names["backend"]:
            if compiled.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(compiled, self.names))
            else:
                exec(compiled, self.names)

    def stand_in(self, name: str) -> None:
        """Put something in the place of a name that no block defines."""
        if name in resilient.__all__:
            self.names[name] = getattr(resilient, name)
        elif name == "connection":
            self.names[name] = sqlite3.connect(":memory:")
            self.names[name].execute("CREATE TABLE charge (amount)")
        elif name[0].isupper() and not hasattr(builtins, name):
            self.names[name] = make_dataclass(name, [("rows", int, 0)])
        elif not hasattr(builtins, name):
            users = {"user": User(), "ada": User(1), "bob": User(2)}
            self.names[name] = (VALUES | users).get(name, MagicMock(name=name))
            if name == "jobs":  # what is sent is there where the next lines run
                self.names[name].send = lambda **sent: self.names.update(sent)
            if name == "count_rows":
                self.names[name].return_value = 3


def parsed(code: str) -> ast.Module:
    """The block as a module: one that shows decorators alone, or the body of a function, too."""
    for whole in (code, f"{code}\ndef function(x): ...\n"):
        try:
            tree = ast.parse(whole)
            compile(tree, "a block", "exec", flags=AWAITING, dont_inherit=True)
        except SyntaxError:
            continue
        return tree
    return ast.parse(f"def body():\n{textwrap.indent(code, '    ')}\nbody()\n")


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(config, "_configured", None)
    monkeypatch.setattr(config, "_prefix", "")
    yield
    resilient.close()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(path: Path) -> None:
    """From the first to the last, over the memory backend."""
    page = Page(path)
    for line, code in page.blocks():
        try:
            page.run(code, f"{path.name}, line {line}")
        except Exception as error:
            error.add_note(f"in the block at line {line} of {path}")
            raise


def test_what_is_not_run_is_still_there() -> None:
    """The list of exceptions holds no more than it has to."""
    texts = [path.read_text() for path in PAGES]
    assert [sign for sign in NOT_RUN if not any(sign in text for text in texts)] == []
