"""What an operator does to the database by hand: rotate its master key, and say that it was restored."""

from __future__ import annotations

from pathlib import Path

from entrepot.storage.master import MasterKey, fresh_path, sync_folder
from entrepot.storage.store import Store


async def rotate_file(url: str, path: Path) -> int:
    """Make a new key, put all secrets under it, and have it take the file's place. How many secrets there were.

    A rotation that was cut short is finished. Raises Error, OSError. Processes that run with the old key have to be
    restarted: they say so when they need a secret.
    """
    master, fresh = MasterKey.from_file(path), fresh_path(path)
    if master.successor is None:
        # The new key is durable before anything is under it, and the old one stays until nothing is under it any more;
        # `MasterKey.from_file` gives both meanwhile, and `Store.open` takes the one that fits.
        MasterKey.generate().write(fresh)
    count = await rotate(url, MasterKey.from_file(path), MasterKey.from_file(fresh))
    fresh.replace(path)
    sync_folder(path.parent)
    return count


async def rotate(url: str, old: MasterKey, new: MasterKey) -> int:
    """Put all secrets under another key, in one transaction. How many there were. Raises Error."""
    store = await Store.open(url, old)
    try:
        return await store.rotate(new)
    finally:
        await store.close()


async def restored(url: str, master: MasterKey) -> int:
    """Begin a new epoch, so that no gateway takes what was lost for newer. The epoch. Raises Error."""
    store = await Store.open(url, master)
    try:
        return await store.raise_epoch()
    finally:
        await store.close()
