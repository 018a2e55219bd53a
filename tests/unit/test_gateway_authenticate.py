"""Where a role has to be for a token to open an account."""

from __future__ import annotations

from entrepot.gateway.authenticate import scopes
from entrepot.resources.model import Account, Keys


def test_scopes_are_the_account_and_all_above_it_in_lower_case() -> None:
    account = Account("Kanto-1", "ABCD-01", "RG.One", "japaneast", "direct", "Harbour", Keys("sha256:" + "0" * 64))
    assert scopes(account) == (
        "/subscriptions/abcd-01/resourcegroups/rg.one/providers/microsoft.cognitiveservices/accounts/kanto-1",
        "/subscriptions/abcd-01/resourcegroups/rg.one",
        "/subscriptions/abcd-01",
        "/providers/entrepot.access/operators/harbour",
        "/",
    )
