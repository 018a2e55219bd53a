"""Built-in roles: what each may do. Azure's own keep Azure's ids, so that its command line finds them by name or id.

Actions are matched as Azure does: without regard to case, `*` stands for any number of segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

DEFINITIONS = "/providers/Microsoft.Authorization/roleDefinitions/"
CALL_MODEL = "Microsoft.CognitiveServices/accounts/OpenAI/deployments/chat/completions/action"


class Role(msgspec.Struct, frozen=True):
    """`everywhere`: whether it can be assigned below operators too; the others would have no effect there."""

    id: str
    name: str
    description: str
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()
    everywhere: bool = True

    def allows(self, action: str) -> bool:
        return _any(self.actions, action) and not _any(self.not_actions, action)

    def allows_data(self, action: str) -> bool:
        return _any(self.data_actions, action) and not _any(self.not_data_actions, action)


OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
CONTRIBUTOR = "b24988ac-6180-42a0-ab88-20f7382dd24c"
READER = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
OPENAI_USER = "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd"
OPENAI_CONTRIBUTOR = "a001fd3d-188f-4b5d-821b-7da978bf7442"
COGNITIVE_CONTRIBUTOR = "25fbc0a9-bd7c-42a3-aa1a-3b75d497ee68"
COGNITIVE_USER = "a97b65f3-24c7-4388-baec-2e87135dc908"
USAGES_READER = "bba48692-92b0-4667-a9ad-c31c7b334ac2"
COMPLIANCE_OFFICER = "e7a1c0de-0001-4c0e-9a3b-6d2f54a1b001"
REVIEWER = "e7a1c0de-0002-4c0e-9a3b-6d2f54a1b002"
AUDITOR = "e7a1c0de-0003-4c0e-9a3b-6d2f54a1b003"

_COGNITIVE = "Microsoft.CognitiveServices"
_ACCESS = "Entrepot.Access"
_READ_AROUND = (
    "Microsoft.Authorization/*/read",
    "Microsoft.Resources/deployments/operations/read",
    "Microsoft.Resources/subscriptions/read",
    "Microsoft.Resources/subscriptions/operationresults/read",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
)

ROLES: tuple[Role, ...] = (
    Role(
        OWNER,
        "Owner",
        "Grants full access to manage all resources, including the ability to assign roles.",
        actions=("*",),
    ),
    Role(
        CONTRIBUTOR,
        "Contributor",
        "Grants full access to manage all resources, but does not allow you to assign roles, to manage principals, or "
        "to decide on compliance.",
        actions=("*",),
        not_actions=(
            "Microsoft.Authorization/*/delete",
            "Microsoft.Authorization/*/write",
            "Microsoft.Authorization/elevateAccess/action",
            f"{_ACCESS}/principals/write",
            f"{_ACCESS}/principals/delete",
            f"{_ACCESS}/principals/*/action",
            f"{_ACCESS}/organizations/review/action",
            f"{_ACCESS}/proposals/approve/action",
            f"{_ACCESS}/proposals/reject/action",
            f"{_ACCESS}/proposals/breakGlass/action",
            # A gateway is given the credentials of every upstream: enrolling one is no less than an Owner's affair.
            f"{_ACCESS}/gateways/enrol/action",
        ),
    ),
    Role(
        READER,
        "Reader",
        "View all resources, but does not allow you to make any changes.",
        actions=("*/read",),
    ),
    Role(
        OPENAI_USER,
        "Cognitive Services OpenAI User",
        "Ability to view files, models, deployments. Readers can call inference operations.",
        actions=(f"{_COGNITIVE}/*/read", "Microsoft.Authorization/roleAssignments/read", *_READ_AROUND[:1]),
        data_actions=(f"{_COGNITIVE}/accounts/OpenAI/*",),
    ),
    Role(
        OPENAI_CONTRIBUTOR,
        "Cognitive Services OpenAI Contributor",
        "Full access including the ability to deploy models and to call them.",
        actions=(
            f"{_COGNITIVE}/*/read",
            f"{_COGNITIVE}/accounts/deployments/write",
            f"{_COGNITIVE}/accounts/deployments/delete",
            f"{_COGNITIVE}/accounts/raiPolicies/read",
            f"{_COGNITIVE}/accounts/raiPolicies/write",
            f"{_COGNITIVE}/accounts/raiPolicies/delete",
            *_READ_AROUND[:1],
        ),
        data_actions=(f"{_COGNITIVE}/accounts/OpenAI/*",),
    ),
    Role(
        COGNITIVE_CONTRIBUTOR,
        "Cognitive Services Contributor",
        "Lets you create, read, update, delete and manage keys of Cognitive Services.",
        actions=(*_READ_AROUND, f"{_COGNITIVE}/*", "Microsoft.Insights/*/read"),
    ),
    Role(
        COGNITIVE_USER,
        "Cognitive Services User",
        "Lets you read and list keys of Cognitive Services, and call them.",
        actions=(*_READ_AROUND, f"{_COGNITIVE}/*/read", f"{_COGNITIVE}/accounts/listKeys/action"),
        data_actions=(f"{_COGNITIVE}/*",),
    ),
    Role(
        USAGES_READER,
        "Cognitive Services Usages Reader",
        "Minimal permission to view Cognitive Services usages.",
        actions=(f"{_COGNITIVE}/locations/usages/read",),
    ),
    Role(
        COMPLIANCE_OFFICER,
        "Compliance Officer",
        "Writes policy releases and organizations' evidence, proposes and approves, suspends accounts.",
        actions=(
            "*/read",
            f"{_ACCESS}/organizations/*",
            f"{_ACCESS}/policyReleases/*",
            f"{_ACCESS}/proposals/*",
            f"{_ACCESS}/accounts/suspend/action",
        ),
        everywhere=False,
    ),
    Role(
        REVIEWER,
        "Reviewer",
        "Reviews organizations' evidence, approves or rejects what others propose.",
        actions=(
            "*/read",
            f"{_ACCESS}/organizations/review/action",
            f"{_ACCESS}/proposals/approve/action",
            f"{_ACCESS}/proposals/reject/action",
        ),
        everywhere=False,
    ),
    Role(
        AUDITOR,
        "Auditor",
        "Reads everything, changes nothing, and sees no key.",
        actions=("*/read",),
        everywhere=False,
    ),
)

BY_ID = {role.id: role for role in ROLES}


class Assignment(msgspec.Struct, frozen=True):
    """`principal` is an object id, `role` a definition's id without its path, `scope` a lower-case id or `/`."""

    principal: str
    role: str
    scope: str


def find_role(definition: str) -> Role | None:
    """The role of a definition's id, at whatever scope it is written, or of a bare id."""
    return BY_ID.get(definition.rstrip("/").rpartition("/")[2].lower())


def data_scopes(assignments: Iterable[Assignment]) -> dict[str, tuple[str, ...]]:
    """Where each principal may call models: object id → scopes, for publication to the gateways."""
    found: dict[str, set[str]] = {}
    for each in assignments:
        role = BY_ID.get(each.role)
        if role is not None and role.allows_data(CALL_MODEL):
            found.setdefault(each.principal, set()).add(each.scope)
    return {principal: tuple(sorted(found[principal])) for principal in sorted(found)}


def covers(action: str, pattern: str) -> bool:
    """Whether `pattern` with its wildcards stands for `action`."""
    return _compiled(pattern).fullmatch(action) is not None


def _any(patterns: Iterable[str], action: str) -> bool:
    return any(covers(action, pattern) for pattern in patterns)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.IGNORECASE)
