"""Rotates a master key that stands in a file, so that a crash at any moment leaves a key that fits."""

from __future__ import annotations

from pathlib import Path

from entrepot.storage.master import MasterKey, fresh_path, sync_folder
from entrepot.storage.store import Store


async def rotate_file(url: str, path: Path) -> int:
    """Make a new key, put all secrets under it, and have it take the file's place. How many secrets there were.

    A rotation that was cut short is finished, or begun again. Raises Error. Processes that run with the old key have
    to be restarted: they say so when a secret is asked of them.
    """
    master, fresh = MasterKey.from_file(path), fresh_path(path)
    if master.successor is None:
        # The new key is durable before anything is under it, and the old one stays until nothing is under it any more;
        # `MasterKey.from_file` gives both meanwhile, and `Store.open` takes the one that fits.
        MasterKey.generate().write(fresh)
    successor = MasterKey.from_file(fresh)
    store = await Store.open(url, MasterKey.from_file(path))
    try:
        count = await store.rotate(successor)
    finally:
        await store.close()
    fresh.replace(path)
    sync_folder(path.parent)
    return count
