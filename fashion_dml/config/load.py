"""Settings from a YAML file and the command line; what is wrong becomes one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fashion_dml.config.settings import JobSettings, Settings
from fashion_dml.storage import UserError

S = TypeVar("S", bound=JobSettings)


def read_config(file: str) -> dict[str, Any]:
    """The sections of a YAML file; unknown top-level names are refused."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"The config file {file!r} can't be read ({reason}); give --config an existing YAML file.") from error
    try:
        sections = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"The config file {file!r} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(sections, dict):
        raise UserError(
            f"The config file {file!r} holds {type(sections).__name__}, not sections like `data:` with settings below."
        )
    unknown = sorted(map(str, set(sections) - set(Settings.model_fields)))
    if unknown:
        raise UserError(
            f"The config file {file!r} has the unknown section {unknown[0]!r}; known are {', '.join(Settings.model_fields)}."
        )
    return {name: values for name, values in sections.items() if values is not None}  # a section may stand there empty


def load_settings(cls: type[S], argv: list[str], *, prog: str, doc: str) -> S:
    """Settings from `--config FILE` and `--section.setting VALUE` arguments; `--help` lists them all.

    Raises UserError with one sentence that names the setting, the value and the limit.
    """
    from fashion_dml.cli import parse_overrides

    config_file, overrides = parse_overrides(cls, argv, prog=prog, doc=doc)
    values = read_config(config_file) if config_file else {}
    for dotted, value in overrides.items():
        node = values
        *sections, leaf = dotted.split(".")
        for section in sections:
            node[section] = {} if node.get(section) is None else node[section]
            node = node[section]
            if not isinstance(node, dict):
                raise UserError(
                    f"The section {section!r} of {config_file!r} is {node!r}; it must hold settings like `{leaf}:`."
                )
        node[leaf] = value
    return validate(cls, values)


def validate(cls: type[S], values: dict[str, Any]) -> S:
    """Settings from nested values, or a UserError naming the first setting that is wrong."""
    try:
        return cls(**{k: v for k, v in values.items() if k in cls.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "settings"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = _section_fields(cls, first["loc"][:-1])
            raise UserError(f"There is no setting {where!r}; known here are {', '.join(known)}.") from error
        given = first.get("input")
        if isinstance(given, dict | BaseModel):  # settings that don't go together: what they are stands in the message
            raise UserError(
                f"The settings can't be used together: {what}."
                if not first["loc"]
                else f"The section {where} can't be used: {what}."
            ) from error
        raise UserError(f"The setting {where} = {given!r} can't be used: {what}.") from error


def _section_fields(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        annotation = cls.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        cls = annotation
    return sorted(cls.model_fields)
