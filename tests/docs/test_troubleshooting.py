"""The sentences that docs/troubleshooting.md quotes are ones that the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OTHERS = ("another", "answers", "a worker", "`object store`")  # lines on what Ray says, or nobody


def said() -> str:
    """All text of the code's strings, a blank in place of each value that is filled in."""
    found = []
    for folder in ("fashion_dml", "jobs", "serve"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(v.value if isinstance(v, ast.Constant) else " " for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return " | ".join(" ".join(text.split()) for text in found)


def test_quoted_sentences_are_said() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = page.split("## Results that disappoint")[0]
    quotes = [
        re.search(r"`([^`]+)`", line[1]).group(1)  # type: ignore[union-attr]
        for line in re.finditer(r"^\| (`?[^|]*`[^|]*) \|", tables, re.M)
        if not line[1].startswith(OTHERS)
    ]
    assert len(quotes) > 15
    text = said()
    assert [q for q in quotes if q not in text] == []
