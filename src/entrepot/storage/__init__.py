"""The control plane's database: resources, secrets, the outbox of changes, and what the follower adds up.

Knows nothing of HTTP, roles or what a resource means. Never imported by a gateway.
"""

from __future__ import annotations

from entrepot.storage.master import MasterKey
from entrepot.storage.rows import EVERYTHING, Recorded, Row, Tenancy
from entrepot.storage.store import Store
from entrepot.storage.transaction import Transaction

__all__ = ["EVERYTHING", "MasterKey", "Recorded", "Row", "Store", "Tenancy", "Transaction"]
