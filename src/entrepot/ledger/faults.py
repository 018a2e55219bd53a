"""How the ledger says that it does not work."""

from __future__ import annotations


class LedgerRefused(Exception):  # noqa: N818 - named for what it says
    """The ledger on disk is not what was signed, or is in use; nothing was changed. The message says what to do."""


class LedgerUnavailable(Exception):  # noqa: N818 - named for what it says
    """The entry could not be made durable. The call that it belongs to must not be served."""
