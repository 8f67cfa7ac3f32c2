"""The text lists of the DeepFashion benchmarks: found in a source, their declared count and header checked.

    52712
    image_name                                  item_id      evaluation_status
    img/WOMEN/Dresses/id_00000002/02_1_front.jpg   id_00000002  train

Line 1 declares the number of rows; line 2 is a header, where the list has one; columns stand apart by runs of spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fashion_dml.data.sources.files import Files
from fashion_dml.storage import UserError

ANY = ("*",)
FOLDERS = ("Eval", "Anno", "Anno/attributes", "")


@dataclass(frozen=True)
class TextList:
    """`rows` are (line, text) without blank lines; `base` is the benchmark's folder: "" or with a slash at its end."""

    file: str
    base: str
    rows: list[tuple[int, str]]

    def split(self, columns: int) -> list[tuple[int, list[str]]]:
        """(line, columns) of rows that stand apart by runs of spaces. Raises UserError for another number of columns."""
        found = [(line, text.split()) for line, text in self.rows]
        for line, cells in found:
            if len(cells) != columns:
                raise UserError(f"{self.file}, line {line}: {' '.join(cells)[:80]!r} has {len(cells)} columns, not {columns}.")
        return found


def decoded(files: Files, name: str) -> list[str]:
    """The lines of a UTF-8 file, with or without byte order mark."""
    try:
        return files.read(name).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{files.source}:{name} is not UTF-8 text (byte {error.start}); unpack it again.") from error


def candidates(files: Files, names: Sequence[str], base: str | None = None) -> list[tuple[str, str]]:
    """(path, base) of the files of these names in any of FOLDERS, nearest to the top first; below `base` where it is given."""
    found = []
    for path in files.names:
        folder, _, name = path.rpartition("/")
        if name not in names or path.startswith("__MACOSX"):
            continue
        for place in FOLDERS:
            if place and folder != place and not folder.endswith(f"/{place}"):
                continue
            top = folder.removesuffix(place).rstrip("/")
            found.append((path, f"{top}/" if top else ""))
            break
    return sorted((f for f in found if base is None or f[1] == base), key=lambda f: (f[0].count("/"), f[0]))


def read_list(
    files: Files, names: Sequence[str], header: Sequence[str], *, base: str | None = None, distinct: bool = False
) -> TextList | None:
    """The first list of one of these names with this header (empty: it has none; ANY), or None where no file has the name.

    Raises UserError where line 1 doesn't declare the number of rows. `distinct`: it may also declare that of the
    different first columns.
    """
    wrong: UserError | None = None
    for path, top in candidates(files, names, base):
        file = f"{files.source}:{path}"
        lines = [(n, text.strip()) for n, text in enumerate(decoded(files, path), 1) if text.strip()]
        if not lines or not lines[0][1].isdigit():
            said = lines[0][1][:80] if lines else ""
            wrong = wrong or UserError(f"{file}, line 1: {said!r} is no count of rows; the list is cut or another one.")
            continue
        declared, rows = int(lines[0][1]), lines[1:]
        if header:
            said = rows[0][1] if rows else ""
            if header != ANY and said.split()[: len(header)] != list(header):
                wrong = wrong or UserError(f"{file}, line 2: the header is {said[:80]!r}, not {' '.join(header)!r}.")
                continue
            rows = rows[1:]
        held = {len(rows)} | ({len({text.split()[0] for _, text in rows})} if distinct else set())
        if declared not in held:
            raise UserError(
                f"{file}, line 1: declares {declared:,} rows, but {len(rows):,} follow; the list is cut: get it again."
            )
        return TextList(file, top, rows)
    if wrong is not None:
        raise wrong
    return None


def required(found: TextList | None, files: Files, name: str, benchmark: str) -> TextList:
    """The list, or a UserError where it is missing."""
    if found is None:
        raise UserError(
            f"{files.source!r} holds no {name}: give --source the folder (or plain tar) of the {benchmark} benchmark."
        )
    return found
