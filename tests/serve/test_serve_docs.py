"""docs/serve.md says what is: every metric, every limit, no setting that isn't there."""

from __future__ import annotations

import re
from pathlib import Path

from fashion_dml.config import Serve
from serve import limits, tuning
from serve.metrics import METRICS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serve.md").read_text()


def test_every_metric_is_listed_as_it_is():
    rows = re.findall(r"^\| `(fashion_dml_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", TEXT, re.MULTILINE)
    told = {name: (kind, labels, says) for name, kind, labels, says in rows}
    assert told == {
        m.name: (type(m).__name__.lower(), ", ".join(f"`{label}`" for label in m.labels), m.description) for m in METRICS
    }


def test_ray_is_told_what_jobs_serve_tells_it():
    """Where Ray runs already, by the variables of the page; HAProxy's own places are left to Ray."""
    page = (ROOT / "docs" / "serve-speed.md").read_text()
    (block,) = re.findall(r"^```\n(RAY_SERVE_.*)\n```$", page, re.MULTILINE | re.DOTALL)
    told = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", block))
    assert told == tuning.ONE_LOOP | tuning.NOTICED | {"RAY_SERVE_ENABLE_HA_PROXY": "1"}


def test_limits_are_those_of_the_code():
    section = TEXT.partition("## Limits")[2]
    for what, value in {
        "body": f"{limits.BODY_BYTES:,} bytes", "body's arrival": f"{limits.BODY_SECONDS:g} s", "image": f"{limits.PIXELS:,} pixels",
        "`k`": str(limits.K_MOST), "verticals of a filter": str(limits.VERTICALS_MOST),
        "columns of a filter, values of each": f"{limits.ATTRIBUTES_MOST}, {limits.VALUES_MOST}",
        "upserts, and deletes, of a batch": str(limits.CHANGES_MOST),
    }.items():  # fmt: skip
        assert f"| {what} | {value} |" in section, what


def test_settings_and_files_exist():
    words = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)(?:: [^`]*)?`", TEXT))
    elsewhere = {"too_slow", "rate_limited", "request_id", "logging_config", "file_sd_configs", "index_problem", "user_config"}
    named = {word for word in words if not word.startswith(("fashion_dml_", "ray_"))} - elsewhere
    assert named
    assert named <= set(Serve.model_fields), named - set(Serve.model_fields)
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
