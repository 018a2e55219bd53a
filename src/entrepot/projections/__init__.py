"""What follows from the ledger's entries, computed from nothing each time: usage, refusals, replay. Writes nothing."""
