"""The command line of every job, made from its settings: `--section.setting VALUE`, `--config FILE`, `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fashion_dml.storage import UserError

EXITS = """exit status: 0 done; 2 refused or failed, with one sentence on stderr; 143 asked to stop (SIGTERM, ray job stop): the same
command goes on from there; any other, with a traceback, is a bug"""


def leaves(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting below a model with its dotted name."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def default_text(field: FieldInfo) -> str:
    """A default as a command line or a table shows it."""
    value = field.get_default(call_default_factory=True)
    return ",".join(map(str, value)) if isinstance(value, tuple) else repr(value) if value in ("", {}) else str(value)


def _parse(text: str, field: FieldInfo) -> Any:
    """YAML's reading of a command line value; a comma makes a list where the setting is one."""
    if field.annotation is str:
        return text
    if isinstance(field.get_default(call_default_factory=True), tuple) and not text.startswith("["):
        return [yaml.safe_load(part) for part in text.split(",") if part]
    return yaml.safe_load(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see `{self.prog} --help`.")


def parse_overrides(cls: type[BaseModel], argv: list[str], *, prog: str, doc: str) -> tuple[str, dict[str, Any]]:
    """(config file or "", {dotted name: value}) from the arguments; prints help and exits on `--help`."""
    parser = _Parser(
        prog=prog, usage=f"{prog} [--config FILE] [--SETTING VALUE ...]", description=doc, epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--config", default="", metavar="FILE", help="YAML file with the sections below")
    groups: dict[str, argparse._ArgumentGroup] = {}
    fields = dict(leaves(cls))
    for dotted, field in fields.items():
        section = dotted.rpartition(".")[0] or "general"
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        text = f"{field.description or ''} (default: {default_text(field)})".replace("%", "%%")
        groups[section].add_argument(f"--{dotted}", dest=dotted, metavar="VALUE", help=text, default=None)
    given = vars(parser.parse_args(argv))
    config = given.pop("config")
    overrides: dict[str, Any] = {}
    for dotted, text in given.items():
        if text is not None:
            try:
                overrides[dotted] = _parse(text, fields[dotted])
            except yaml.YAMLError as error:
                raise UserError(f"--{dotted} {text!r} can't be read as a value: {' '.join(str(error).split())}.") from error
    return config, overrides
