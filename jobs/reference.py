"""docs/settings.md, every setting of every job, from the settings themselves.

python -m jobs.reference > docs/settings.md
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from fashion_dml.cli import default_text, leaves
from fashion_dml.config import JobSettings, Settings

HEAD = """# Every setting

Written by `python -m jobs.reference`; a test keeps it so. On a command line `--section.setting VALUE`, in a file given by `--config`

```
section:
  setting: VALUE
```

The command line wins. A job reads the sections that name it, and passes over the others; an unknown name or a value out of bounds is
refused in one sentence before anything starts. `--help` of a job shows the same for its own sections.
"""


def settings_of_jobs() -> dict[str, type[JobSettings]]:
    """Job -> the class of its settings: the one that its module defines, or the library's that it runs with."""
    found: dict[str, type[JobSettings]] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "main(" not in source or file.stem in ("common", "reference", "__init__"):
            continue
        module = importlib.import_module(f"jobs.{file.stem}")
        classes = {
            c
            for c in vars(module).values()
            if inspect.isclass(c) and issubclass(c, JobSettings) and f"main({c.__name__}," in source
        }
        if len(classes) == 1:
            found[file.stem] = classes.pop()
    return found


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page() -> str:
    """The Markdown of docs/settings.md."""
    jobs = settings_of_jobs()
    parts = [HEAD]
    sections: dict[str, list[str]] = {}
    for name, field in leaves(Settings):
        section = name.partition(".")[0] if "." in name else ""
        sections.setdefault(section, []).append(
            f"| `{name}` | `{cell(default_text(field))}` | {cell(field.description or '')} |"
        )
    for section, rows in sections.items():
        readers = ", ".join(f"`{job}`" for job, cls in jobs.items() if section in cls.model_fields)
        read_by = f"Read by {readers}.\n\n" if section else ""
        parts.append(f"## {section or 'All jobs'}\n\n{read_by}| setting | default | |\n|---|---|---|\n" + "\n".join(rows))
    own = []
    for job, cls in jobs.items():
        for name, field in leaves(cls):
            if "." not in name and name not in Settings.model_fields:
                own.append(f"| `{job}` | `--{name}` | `{cell(default_text(field))}` | {cell(field.description or '')} |")
    parts.append("## Of one job alone\n\n| job | setting | default | |\n|---|---|---|---|\n" + "\n".join(own))
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
