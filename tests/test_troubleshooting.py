"""Each row of docs/troubleshooting.md names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"


def rows() -> list[str]:
    """Of the tables whose last column names tests."""
    found: list[str] = []
    named = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            named = False
        elif line.endswith("| test |"):
            named = True
        elif named and not line.startswith("| ---"):
            found.append(line)
    return found


def test_every_row_has_its_test() -> None:
    there = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(rows()) >= 20
    for row in rows():
        named = re.findall(r"`(test_\w+)`", row.rstrip(" |").rpartition(" | ")[2])
        assert named, row
        assert set(named) <= there, row
