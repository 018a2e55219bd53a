"""The certificate that the control plane shows: taken over while it runs, when its files are others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

from entrepot.identity.certificates import Issued

LOOK_S = 1.0

log = logging.getLogger(__name__)

Mark = tuple[tuple[int, int], ...]


async def show(context: ssl.SSLContext, issued: Issued) -> None:
    """New connections get the pair that the files hold, from a second after it was written on; open ones stay.

    Runs until it is cancelled. A pair that does not fit, as between the writing of the two, is passed over.
    """
    seen = _mark(issued)
    while True:
        await asyncio.sleep(LOOK_S)
        if (mark := _mark(issued)) == seen:
            continue
        seen = mark
        try:
            # First into a context that nobody uses: one that refused a pair is not sound any more.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(issued.certificate, issued.key)
            context.load_cert_chain(issued.certificate, issued.key)
        except OSError as error:
            fields = {"problem": str(error), "file": str(issued.certificate)}
            log.warning("the new certificate cannot be shown yet", extra={"fields": fields})
            continue
        log.info("a new certificate is shown to new connections", extra={"fields": {"file": str(issued.certificate)}})


def _mark(issued: Issued) -> Mark:
    """Another one when a file is written anew, which makes it another file; nothing of one that is not there."""
    found = []
    for each in (issued.certificate, issued.key):
        with contextlib.suppress(OSError):
            stat = each.stat()
            found.append((stat.st_ino, stat.st_mtime_ns))
    return tuple(found)
