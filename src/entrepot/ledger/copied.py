"""Copies a ledger that is being written: whole entries up to a signed checkpoint, proved on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

from entrepot.ledger.files import Files
from entrepot.ledger.read import folders_of
from entrepot.ledger.shipped import Shipped
from entrepot.ledger.verify import (
    CHECKPOINT,
    LIST,
    PRIVATE,
    SEGMENT,
    Key,
    Unproved,
    folder_name,
    open_checkpoint,
    read_header,
    read_key,
    walk,
)


def copy_ledger(data: Path, to: Path, *, private: bool = False) -> int:
    """`data`'s verifier keys and logs, with `private` also personal data, but not the signing keys. How many entries.

    Raises Unproved where what stands there does not prove true, OSError.
    """
    keys = [read_key(path.read_text(encoding="utf-8")) for path in sorted((data / "keys").glob("*.vkey"))]
    for path in (data / "keys").glob("*.vkey"):
        (to / "keys").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / "keys" / path.name)
    ledger = data / "ledger"
    if not (ledger / LIST).exists():
        return 0
    note = (ledger / LIST).read_bytes()  # first, so that all that it names is there, with as much of it as it says
    listed = {folder_name(word) for word in note.decode("utf-8", "replace").split()}
    total = 0
    for folder in folders_of(ledger):
        if folder.name in listed or (folder / CHECKPOINT).exists():  # else one of which nothing is signed yet
            total += _copy(folder, to / "ledger" / folder.name, keys, private=private)
    Files().replace(to / "ledger" / LIST, note)
    return total


def _copy(folder: Path, to: Path, keys: list[Key], *, private: bool) -> int:
    key = next((key for key in keys if folder.name.startswith(folder_name(f"{key.name}/"))), None)
    if key is None:
        raise Unproved(f"there is no verifier key for the log `{folder.name}`")
    note = (folder / CHECKPOINT).read_bytes()
    size = open_checkpoint(note, key).size
    copy = Shipped.open(to, key)
    for path in sorted(folder.glob(SEGMENT)):
        first = int(path.stem)
        if first >= size:
            break
        data = path.read_bytes()
        spans = walk(data, read_header(data)[2], size - first)[0][: size - first]
        copy.add(first, 0, data[: spans[-1][1]] if spans else b"")
    copy.sign(note)
    if private:
        # After the entries: what it holds beyond them is cut off where somebody goes on with the copy.
        shutil.copytree(folder / PRIVATE, to / PRIVATE)
    return copy.position()["entries"]
