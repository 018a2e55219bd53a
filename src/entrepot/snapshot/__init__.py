"""What a gateway decides by: published whole or as a change, compiled once, immutable from then on."""

from entrepot.snapshot.compiled import Compiled
from entrepot.snapshot.files import publish_files
from entrepot.snapshot.model import Snapshot
from entrepot.snapshot.parts import Account, Candidate, Deployment, Key, Standing
from entrepot.snapshot.published import Delta, Issuer, Published, applied, decode, difference, encode
from entrepot.snapshot.revision import Revision

__all__ = [
    "Account",
    "Candidate",
    "Compiled",
    "Delta",
    "Deployment",
    "Issuer",
    "Key",
    "Published",
    "Revision",
    "Snapshot",
    "Standing",
    "applied",
    "decode",
    "difference",
    "encode",
    "publish_files",
]
