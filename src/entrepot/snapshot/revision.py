"""Which publication a snapshot was compiled from."""

from __future__ import annotations

from typing import Final

import msgspec

PER_EPOCH: Final = 1_000_000_000
"""Revisions that fit into an epoch, as one number; entries of the ledger hold that number."""


class Revision(msgspec.Struct, frozen=True, order=True):
    """`n` counts changes; a control plane that was restored from a backup begins a new `epoch`. Files: epoch 0."""

    epoch: int
    n: int

    def number(self) -> int:
        """As one integer in the same order, for entries of the ledger and metrics."""
        return self.epoch * PER_EPOCH + self.n

    def __str__(self) -> str:
        return f"{self.epoch}.{self.n}"
