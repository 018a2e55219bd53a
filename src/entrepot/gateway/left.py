"""Logs of workers that a gateway had and has no more: their calls get an outcome all the same."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from entrepot.ledger.faults import LedgerRefused
from entrepot.ledger.files import Files
from entrepot.ledger.keys import find_signer
from entrepot.ledger.log import CLOSED, Places
from entrepot.ledger.read import entries_of, segments_of
from entrepot.ledger.verify import Unproved
from entrepot.ledger.writer import open_writer, origin_of, read_logs

log = logging.getLogger(__name__)


def close_left(data: Path, name: str, workers: int) -> list[str]:
    """What those wrote who died while there were more than `workers`: decisions without an outcome get `lost`.

    Returns what their logs are called, of those who ended in good order too.
    A log that cannot be gone on with stays as it is, and that is told; calls go on all the same.
    """
    files, places = Files(), Places(data)
    signer = find_signer(data, name, files)
    of_worker = re.compile(rf"({re.escape(name)}/w(\d+))/[^/]+/\d+")
    found = (of_worker.fullmatch(origin_of(one)) for one in read_logs(places, signer, files))
    last = {match[1]: match[0] for match in found if match is not None and int(match[2]) >= workers}
    for writer, origin in last.items():
        if not _is_closed(places.log(origin)):
            try:
                open_writer(data, writer, signer, files).close()
            except (LedgerRefused, OSError) as wrong:
                log.error("a worker's log cannot be closed", extra={"fields": {"log": origin, "problem": str(wrong)}})
    return list(last)


def _is_closed(folder: Path) -> bool:
    """In good order. What is damaged is not, for its writer to say so."""
    entry = b""
    try:
        for read in entries_of(folder, segments_of(folder)[-1][0]):
            entry = read.entry
    except (Unproved, OSError, IndexError):
        return False
    return entry.startswith(CLOSED)
