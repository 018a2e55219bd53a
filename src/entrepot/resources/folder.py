"""A world's folder as bytes: its files, the packs that they name, and a mark that changes when they do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import tomli

from entrepot.resources.problems import Problem, WorldInvalid

SHIPPED = "entrepot:"
_MAY_HOLD_POLICY = re.compile(rb"""(?m)^[ \t]*\[?[ \t]*["']?policy\b""")

Mark: TypeAlias = tuple[tuple[str, int, int, int], ...]


def read_world(folder: Path) -> dict[str, bytes]:
    """The files of a world by their path inside the folder: every `*.toml` in it, and the packs that they name.

    Subfolders and hidden files are left alone. The folder is read until two looks in a row find the same, so that an
    edit or a swapped symlink meanwhile gives the old world or the new one. Raises WorldInvalid when it cannot be read.
    """
    mark: Mark | None = None
    try:
        for _ in range(10):
            root = folder.resolve(strict=True)
            files = _read(root)
            before, mark = mark, fingerprint(root, files)
            if mark == before:
                break
    except OSError as exc:
        what = f"cannot be read: {exc.strerror}"
        raise WorldInvalid([Problem(str(exc.filename or folder), None, "", what, "correct the path")]) from exc
    if not files:
        raise WorldInvalid([Problem(str(folder), None, "", "no `*.toml` file is in it", "name a world's folder")])
    return files


def fingerprint(folder: Path, files: Iterable[str] = ()) -> Mark:
    """What changes when a world's files do: name, inode, size and time of the `*.toml` files and of `files`.

    For a watcher: pass the names that `read_world` returned, so that the packs are watched too. Missing files count as
    such. Raises OSError when the folder is gone.
    """
    root = folder.resolve(strict=True)
    names = {p.name for p in root.iterdir() if p.suffix == ".toml" and not p.name.startswith(".")} | set(files)
    marks = []
    for name in sorted(names):
        try:
            stat = (root / name).stat()
        except OSError:
            marks.append((name, 0, 0, 0))
        else:
            marks.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(marks)


def _read(root: Path) -> dict[str, bytes]:
    paths = sorted(p for p in root.iterdir() if p.suffix == ".toml" and not p.name.startswith(".") and p.is_file())
    files = {p.name: p.read_bytes() for p in paths}
    for data in list(files.values()):
        for pack in named_packs(data):
            if not pack.startswith(SHIPPED) and inside(pack) and pack not in files and (root / pack).is_file():
                files[pack] = (root / pack).read_bytes()
    return files


def named_packs(data: bytes) -> list[str]:
    """The packs that a file names; none when it does not parse, which is told later."""
    if b"policy" not in data or not _MAY_HOLD_POLICY.search(data):
        return []
    try:
        policy = tomli.loads(data.decode()).get("policy")
    except (ValueError, RecursionError):  # not UTF-8, not TOML, nested too deep
        return []
    packs = policy.get("packs") if isinstance(policy, dict) else None
    return [pack for pack in packs if isinstance(pack, str)] if isinstance(packs, list) else []


def inside(pack: str) -> bool:
    """Whether it names what may be a file below the folder."""
    path = PurePosixPath(pack)
    return not path.is_absolute() and ".." not in path.parts and str(path) == pack and "\0" not in pack
