"""Versions of the index: what each holds, which one is live, and that only its own, unaltered files are opened.

    index/CURRENT                               one line: the live version's name; replaced atomically
    index/versions/<v>/manifest.json            written last: a version without it is not complete
    index/versions/<v>/shard-NNNNN/{vectors.faiss, vectors.bin, items.arrow}, for an approximate kind candidates.faiss too:
        the empty index that reads the codes, the codes alone, the items, the index that proposes
    index/versions/<v>/trained/{vectors.faiss, candidates.faiss}   empty indexes that the shards began with
    index/used/<v>                              a service serves this version though CURRENT names another one
    index/models/<sha256>/                      the model of one or more versions, so that a version can be served, also again
        after the workspace's unified model has changed

FAISS files from strangers are a memory-safety risk, so a file is opened only if the manifest lists it with its digest.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dml.storage import MANIFEST, Location, UserError, publish, read_manifest, require_manifest

logger = logging.getLogger(__name__)
KIND = "index"
KINDS = ("flat", "ivf", "ivf_pq", "hnsw")
CURRENT = "CURRENT"
USED, USED_S = "used", 7200  # marks of services, renewed several times in so many seconds
VECTORS, CODES = "vectors.faiss", "vectors.bin"
ROUGH = "rough.bin"  # where it pays (rough.py)
CANDIDATES = "candidates.faiss"
ITEMS = "items.arrow"
MADE_BY = "python -m jobs.build_index"
MADE_ANEW = f"{MADE_BY} --force true --activate true"
ITEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"


@dataclass(frozen=True)
class Effort:
    """How hard an approximate search looks: cells visited (ivf, ivf_pq) or depth of the walk (hnsw), and candidates re-scored."""

    probes: int
    candidates: int


@dataclass(frozen=True)
class IndexManifest:
    """The checked manifest of one version.

    Attributes: model (sha256 of the weights that made the vectors), dim (D), kind (of KINDS), store (key of `store.STORES`),
    effort (of an approximate kind's searches), catalog (last commit of the live catalogue that is folded in), shards (items of
    each), products (each counts once, in however many verticals it is), verticals ({name: {"items", "products"}}), attributes
    (vocabulary, `column=value` each), files ({relative path: {"sha256", "bytes"}}), measured (why this kind, the recall and the
    curve of its effort, where it isn't flat).
    """

    version: str
    model: str
    dim: int
    kind: str
    store: str
    effort: Effort
    catalog: int
    shards: tuple[int, ...]
    products: int
    verticals: dict[str, dict[str, int]]
    attributes: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    inputs: dict[str, str]
    config: Any
    measured: dict[str, Any]

    @property
    def items(self) -> int:
        return sum(self.shards)


def index_root(workspace: Location) -> Location:
    return workspace / "index"


def version_dir(index: Location, version: str) -> Location:
    """Where a version lies. Raises UserError for a name that could lead elsewhere."""
    if not VERSION_NAME.fullmatch(version):
        raise UserError(f"{version[:80]!r} is no name of an index version; it must match {VERSION_NAME.pattern}.")
    return index / "versions" / version


def load(index: Location, version: str) -> IndexManifest:
    """A complete version's manifest. Raises UserError if it is missing, of a newer schema, or no index."""
    directory = version_dir(index, version)
    raw = require_manifest(directory, made_by=MADE_BY)
    if raw.get("kind") != KIND:
        raise UserError(f"{directory} holds a {raw.get('kind')!r}, not an index; run `{MADE_BY}`.")
    try:
        if any(f"{shard_name(n)}/{CODES}" not in raw["files"] for n in range(len(raw["shards"]))):
            raise UserError(
                f"Index version {version} was written by an older fashion-dml, whose files this one doesn't read; run `{MADE_ANEW}`."
            )
        return IndexManifest(
            version=version, model=raw["model"], dim=int(raw["dim"]), kind=raw["index"], store=raw["store"],
            effort=Effort(**raw["effort"]), catalog=int(raw["catalog"]),
            shards=tuple(int(n) for n in raw["shards"]), products=int(raw["products"]),
            verticals=raw["verticals"], attributes=tuple(raw["attributes"]),
            files=raw["files"], inputs=raw["inputs"], config=raw["config"],
            measured={name: raw.get(name) for name in ("choice", "recall", "curve")},
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The manifest in {directory} lacks or garbles {error}; run `{MADE_ANEW}`.") from error


def current(index: Location) -> str | None:
    """Name of the live version; None before the first one."""
    file = index / CURRENT
    return file.read_bytes().decode().strip() if file.is_file() else None


def require_current(index: Location) -> IndexManifest:
    """The live version's manifest, or a UserError that names the job to run first."""
    name = current(index)
    if name is None:
        raise UserError(f"There is no index in {index}: run `{MADE_BY}` first.")
    return load(index, name)


def activate(index: Location, version: str) -> None:
    """Make a complete version the live one, atomically. Raises UserError where there is none of this name."""
    version_dir(index, version)
    if version not in (known := versions(index)):
        raise UserError(f"There is no index version {version[:80]!r}; known are {', '.join(known) or 'none'}.")
    load(index, version)
    (index / CURRENT).write_bytes(f"{version}\n".encode())


def versions(index: Location) -> list[str]:
    """Names of the complete versions, oldest first (names start with the time of building). One whose manifest can't be read is left
    out, and told of: the others can be used all the same."""
    return [d.name for d in (index / "versions").children() if VERSION_NAME.fullmatch(d.name) and _readable(d) is not None]


def _readable(directory: Location) -> dict[str, Any] | None:
    """The manifest of a complete version; None also where it can't be read."""
    try:
        return read_manifest(directory)
    except UserError as error:
        logger.warning("An index version is passed over: %s", error)
        return None


def model_dir(index: Location, sha256: str) -> Location:
    """Where the model with these weights lies, that versions are searched with."""
    return index / "models" / sha256[:16]


def keep_model(index: Location, source: Location, sha256: str) -> None:
    """Copy a model directory beside the versions, unless it is there. Raises UserError if its weights are others."""
    target = model_dir(index, sha256)
    if read_manifest(target) is not None:
        return
    manifest = require_manifest(source, made_by="python -m jobs.distill")
    if manifest["sha256"] != sha256:
        raise UserError(f"{source} holds the model {manifest['sha256'][:12]}, not {sha256[:12]}: build the index again.")
    with publish(target) as draft:
        for file in (f for f in source.children() if f.is_file() and f.name != MANIFEST):
            (draft / file.name).write_bytes(file.read_bytes())
        (draft / MANIFEST).write_json(manifest)


def prune(index: Location, keep: int) -> list[str]:
    """Delete all but the live version, those that services have served lately all the same, and the `keep` newest complete others;
    leftovers of builds begun before the live one, and models that none of these was made by.

    A version whose manifest this software can't read may be of a newer one: it stays, and then so do all models.
    Returns the names that were deleted.
    """
    live = current(index)
    complete = versions(index)
    others = sorted(v for v in complete if v != live)
    kept = {*others[len(others) - keep if keep < len(others) else 0 :], live, *used_lately(index)}
    rest = [d for d in (index / "versions").children() if d.name not in complete]
    unreadable = [d.name for d in rest if (d / MANIFEST).is_file()]
    leftovers = [d.name for d in rest if d.name not in unreadable and live is not None and d.name < live]
    gone = [v for v in complete if v not in kept] + leftovers
    for name in gone:
        _delete(index / "versions" / name)
    named = {
        model_dir(index, manifest["model"]).name for v in versions(index) if (manifest := read_manifest(index / "versions" / v))
    }
    for directory in [] if unreadable else (index / "models").children():
        if directory.name not in named:
            _delete(directory)
    return sorted(gone)


def mark_used(index: Location, version: str) -> None:
    """Have `prune` keep a version for USED_S more seconds: a service serves it though CURRENT names another one."""
    (index / USED / version).write_bytes(b"")


def used_lately(index: Location) -> set[str]:
    """Names of the versions that were marked so in the last USED_S seconds; older marks are deleted."""
    found = {d.name: index.filesystem.get_file_info(d.path).mtime_ns or 0 for d in (index / USED).children()}
    old = [name for name, marked in found.items() if time.time_ns() - marked > USED_S * 1e9]
    for name in old:
        (index / USED / name).delete()
    return set(found).difference(old)


def _delete(directory: Location) -> None:
    (directory / MANIFEST).delete()  # first: what is half deleted must not look complete
    directory.delete()


def verified_file(index: Location, manifest: IndexManifest, relative: str) -> Path:
    """A local path to one of the version's files, its digest checked. Raises UserError if it isn't listed or was altered."""
    entry = manifest.files.get(relative)
    if entry is None:
        raise UserError(f"{relative[:100]!r} is not in the manifest of index version {manifest.version}: it is not opened.")
    file = version_dir(index, manifest.version) / relative
    if not file.is_file():
        raise UserError(f"{file} is missing though the manifest lists it; restore it or run `{MADE_ANEW}`.")
    if file.size() != entry["bytes"]:
        raise UserError(f"{file} has {file.size()} bytes, the manifest says {entry['bytes']}; restore it or run `{MADE_ANEW}`.")
    local = file.local_file()
    digest = Location.of(local).sha256()
    if digest != entry["sha256"]:
        raise UserError(
            f"{file} has sha256 {digest[:12]}..., the manifest says {entry['sha256'][:12]}...: it is not opened; "
            f"restore it or run `{MADE_ANEW}`."
        )
    return local
