"""docs/settings.md is what the settings say."""

from __future__ import annotations

from pathlib import Path

from fashion_dml.cli import leaves
from fashion_dml.config import Settings
from jobs.reference import page, settings_of_jobs

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_current() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page(), "run `python -m jobs.reference > docs/settings.md`"


def test_every_setting_has_its_line_and_every_job_its_sections() -> None:
    text = page()
    for name, field in leaves(Settings):
        assert f"| `{name}` |" in text
        assert field.description, name
    jobs = settings_of_jobs()
    assert {
        "ingest",
        "train_specialists",
        "embed",
        "distill",
        "evaluate",
        "build_index",
        "pipeline",
        "serve",
        "benchmark",
    } < set(jobs)
    assert "## cluster\n\nRead by" in text
