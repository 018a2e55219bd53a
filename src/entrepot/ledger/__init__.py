"""The ledger: what was decided and what became of it, durable, signed, and provable to an outsider."""
