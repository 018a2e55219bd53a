"""The access policy: packs in, a program out, and a decision for every call. Pure; knows no wire and no gateway."""

from entrepot.policy.derive import Target, within_residency
from entrepot.policy.model import Pack, PolicyInvalid, Problem
from entrepot.policy.parse import parse
from entrepot.policy.program import FOREVER, Decision, Program, Timeline, compile  # noqa: A004
from entrepot.policy.shipped import shipped, shipped_names

__all__ = [
    "FOREVER",
    "Decision",
    "Pack",
    "PolicyInvalid",
    "Problem",
    "Program",
    "Target",
    "Timeline",
    "compile",
    "parse",
    "shipped",
    "shipped_names",
    "within_residency",
]
