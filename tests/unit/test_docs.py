"""The documentation is true of the code."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import capability_table

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_that_the_architecture_names_exist() -> None:
    """Every path in `docs/architecture.md` is one in the package."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "resilient"
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (package / path).exists()] == []


def test_the_tree_names_all_of_the_engine() -> None:
    """Whoever looks for a part of it finds its file by what it is for."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text.split("## The tree")[1].split("```")[1]
    engine = ROOT / "resilient" / "engine"
    parts = [path.name for path in engine.glob("*.py") if path.name != "__init__.py"]
    parts += [f"{path.parent.name}/" for path in engine.glob("*/__init__.py")]
    assert [part for part in sorted(parts) if part not in tree.split()] == []


def test_each_way_has_at_most_ten_steps() -> None:
    """A way that cannot be told in ten steps is mended in the code, not here."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    ways = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    steps = [len(re.findall(r"^\d+\. ", way.split("\n## ")[0], flags=re.MULTILINE)) for way in ways]
    assert len(steps) == 5
    assert all(0 < count <= 10 for count in steps), steps


def test_the_table_of_capabilities() -> None:
    """It is what the backends say of themselves: `python -m tests.support.capability_table`."""
    assert capability_table.current() == capability_table.table()
