"""What the pages' code blocks name is there: modules, files, settings, links; and each block is of its language."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, blocks
from pydantic import BaseModel

from fashion_dml.config import Settings
from jobs.benchmarks.scale_table import ScaleSettings

FOLDERS = "cluster|docs|fashion_dml|jobs|serve|tests"


def settings(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all settings and sections."""
    found = set()
    for name, field in model.model_fields.items():
        found.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= settings(field.annotation, f"{prefix}{name}.")
    return found


KNOWN = settings(Settings) | settings(ScaleSettings)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in sorted(set(re.findall(r"python -m ((?:jobs|fashion_dml|serve)(?:\.\w+)+)", text))):
        assert importlib.util.find_spec(module), module
    for name in sorted(set(re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]+\.(?:py|ya?ml|md|svg|png))\b", text))):
        assert (ROOT / name).is_file(), name
    for link in sorted(set(re.findall(r"\]\(((?!https?:|#)[^)#\s]+)", text))):
        assert (page.parent / link).exists(), link
    named = set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)+)", text))
    assert named - KNOWN - {"section.setting"} == set()  # as docs/settings.md shows the form


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_block_is_of_its_language(page: Path) -> None:
    for language, block in blocks(page):
        if language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FOLDERS:
                    module = importlib.import_module(str(node.module))
                    assert [a.name for a in node.names if not hasattr(module, a.name)] == [], node.module
        elif language == "yaml":
            yaml.safe_load(block)
        elif re.match(r"(python|pip|curl|make|ray|kubectl|gcloud|export|source|[a-z]+=) ?", block):
            done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), block
