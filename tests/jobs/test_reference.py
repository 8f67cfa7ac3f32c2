"""docs/settings.md is what the settings say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fashion_dml.cli import leaves
from fashion_dml.config import JobSettings, Settings, load_settings
from jobs.reference import page, settings_of_jobs

ROOT = Path(__file__).parents[2]
DOCS, CONFIGS = ROOT / "docs", sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
JOBS = settings_of_jobs()


def test_the_page_is_current() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page(), "run `python -m jobs.reference > docs/settings.md`"


def test_every_setting_has_its_line_and_every_job_its_sections() -> None:
    text = page()
    for name, field in leaves(Settings):
        assert f"| `{name}` |" in text
        assert field.description, name
    commands = "ingest train_specialists embed distill evaluate build_index export pipeline serve benchmark"
    assert set(commands.split()) < set(JOBS)
    assert "## cluster\n\nRead by" in text


@pytest.mark.parametrize("cls", JOBS.values(), ids=JOBS)
def test_every_job_takes_every_config(cls: type[JobSettings]) -> None:
    """A job passes over the sections of others, so none of its own settings may have a section's name."""
    for config in CONFIGS:
        load_settings(cls, ["--config", str(config)], prog="job", doc="")
    for name in set(cls.model_fields) & set(Settings.model_fields):
        assert cls.model_fields[name].annotation == Settings.model_fields[name].annotation, name
