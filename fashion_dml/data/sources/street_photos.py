"""The photos of Street2Shop: which ids there are (photos.txt), and under which of the usual names each one was saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from fashion_dml.data.sources.files import Files
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.text_list import decoded
from fashion_dml.storage import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", "")


@dataclass(frozen=True)
class Photos:
    """`ids` are those of photos.txt; `saved` maps an id to its file; `base` is the benchmark's folder."""

    base: str
    ids: set[int]
    saved: dict[int, str]

    def find(self, photo: int) -> str | None:
        """The file of a photo, or None where it is missing."""
        return self.saved.get(photo)


def find_photos(files: Files, left_out: LeftOut) -> Photos:
    """Read photos.txt and look through images/. Raises UserError naming the line that is no id and address.

    Two spellings are in use, `1.jpg` and `000000001.jpg`; where both are there they are two downloads of one address,
    and the long one is taken.
    """
    lists = [n for n in files.names if PurePosixPath(n).name == "photos.txt" and not n.startswith("__MACOSX")]
    if not lists:
        raise UserError(f"{files.source!r} holds no photos/photos.txt; unpack photos.tar of Street2Shop into it.")
    path = min(lists, key=lambda p: (p.count("/"), p))
    base = path.removesuffix("photos.txt").removesuffix("photos/")
    ids: dict[int, int] = {}
    for line, text in enumerate(decoded(files, path), 1):
        if not text.strip():
            continue
        number, comma, _ = text.strip().partition(",")  # once: an address may hold commas
        if not comma or not number.isdigit():
            raise UserError(
                f"{files.source}:{path}, line {line}: {text[:80]!r} is not a photo's number, a comma and its address."
            )
        if (before := ids.setdefault(int(number), line)) != line:
            raise UserError(f"{files.source}:{path}, line {line}: the photo {number} stands already in line {before}.")
    saved: dict[int, str] = {}
    for name in sorted(n for n in files.names if n.startswith(f"{base}images/")):
        file = PurePosixPath(name)
        if not file.stem.isdigit() or file.suffix.lower() not in SUFFIXES:
            continue
        other = saved.setdefault(int(file.stem), name)
        if len(PurePosixPath(other).stem) < len(file.stem):
            saved[int(file.stem)] = name
    if unknown := sum(photo not in ids for photo in saved):
        left_out.notes["files_not_in_photos_txt"] = unknown
    return Photos(base, set(ids), saved)
