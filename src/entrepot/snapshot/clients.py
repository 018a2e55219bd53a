"""The clients of a world by name, and who belongs to whom: what it takes to find what a change touches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from entrepot.resources.model import Account, Organization, Subscription
from entrepot.snapshot.published import Delta, Kind, name_of, unfit

Names = dict[str, tuple[str, ...]]  # most have one: a set takes three times as much
Client = TypeVar("Client", Organization, Subscription, Account)
_NONE: tuple[str, ...] = ()


class Clients:
    """Every reference leads somewhere. `changed` copies: the one before stays as it was."""

    def __init__(
        self,
        organizations: Iterable[Organization] = (),
        subscriptions: Iterable[Subscription] = (),
        accounts: Iterable[Account] = (),
    ) -> None:
        """Raises WorldInvalid for a name that is there twice, or a reference to nothing."""
        self.organizations = {each.name: each for each in _once("organization", organizations)}
        self.subscriptions = {each.id: each for each in _once("subscription", subscriptions)}
        self.accounts = {each.name: each for each in _once("account", accounts)}
        self._subscriptions_of: Names = _grouped((each.organization, each.id) for each in self.subscriptions.values())
        self._accounts_of: Names = _grouped((each.subscription, each.name) for each in self.accounts.values())
        self._check(self.subscriptions, self.accounts)

    def owner(self, account: Account) -> Organization:
        return self.organizations[self.subscriptions[account.subscription].organization]

    def changed(self, delta: Delta) -> tuple[Clients, set[str]]:
        """As the delta leaves them, and the names of the accounts that it touches, those that are gone included.

        Raises WorldInvalid for a reference that would lead nowhere.
        """
        made = Clients.__new__(Clients)
        made.organizations = {**self.organizations}
        made.subscriptions = {**self.subscriptions}
        made.accounts = {**self.accounts}
        made._subscriptions_of = {**self._subscriptions_of}
        made._accounts_of = {**self._accounts_of}
        organizations = {each.name for each in delta.organizations}
        subscriptions = {each.id for each in delta.subscriptions}
        accounts = {each.name for each in delta.accounts}
        touched: dict[Kind, set[str]] = {
            "organization": organizations,
            "subscription": subscriptions,
            "account": accounts,
        }
        for kind, name in delta.gone:
            touched[kind].add(name)
            made._drop(kind, name)
        made.organizations.update((each.name, each) for each in _once("organization", delta.organizations))
        for subscription in _once("subscription", delta.subscriptions):
            made._drop("subscription", subscription.id, replaced=True)
            made.subscriptions[subscription.id] = subscription
            _join(made._subscriptions_of, subscription.organization, subscription.id)
        for account in _once("account", delta.accounts):
            made._drop("account", account.name, replaced=True)
            made.accounts[account.name] = account
            _join(made._accounts_of, account.subscription, account.name)
        for name in organizations:
            subscriptions.update(made._subscriptions_of.get(name, _NONE))
        for name in subscriptions:
            accounts.update(made._accounts_of.get(name, _NONE))
        made._check(subscriptions, accounts)
        return made, accounts

    def tables(self) -> tuple[dict[str, Any], ...]:
        return (self.accounts, self.subscriptions, self.organizations, self._accounts_of, self._subscriptions_of)

    def _drop(self, kind: Kind, name: str, *, replaced: bool = False) -> None:
        """Forget a client; one that is replaced keeps its place in the order."""
        if kind == "organization":
            self.organizations.pop(name, None)
        elif kind == "subscription":
            subscription = self.subscriptions.get(name) if replaced else self.subscriptions.pop(name, None)
            if subscription is not None:
                _leave(self._subscriptions_of, subscription.organization, name)
        else:
            account = self.accounts.get(name) if replaced else self.accounts.pop(name, None)
            if account is not None:
                _leave(self._accounts_of, account.subscription, name)

    def _check(self, subscriptions: Iterable[str], accounts: Iterable[str]) -> None:
        for name in subscriptions:
            subscription = self.subscriptions.get(name)
            if subscription is not None and subscription.organization not in self.organizations:
                what = f"there is no organization `{subscription.organization}`"
                raise unfit(what, "declare it, or take the subscription out", f"subscription[{name}].organization")
        for name in accounts:
            account = self.accounts.get(name)
            if account is not None and account.subscription not in self.subscriptions:
                what = f"there is no subscription `{account.subscription}`"
                raise unfit(what, "declare it, or take the account out", f"account[{name}].subscription")


def _once(kind: Kind, clients: Iterable[Client]) -> Iterator[Client]:
    seen: set[str] = set()
    for each in clients:
        name = name_of(each)
        if name in seen:
            raise unfit(f"the {kind} `{name}` is there twice", "take one of them out")
        seen.add(name)
        yield each


def _grouped(pairs: Iterable[tuple[str, str]]) -> Names:
    """Each name is there once, in one group."""
    groups: dict[str, list[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, []).append(name)
    return {group: tuple(names) for group, names in groups.items()}


def _join(groups: Names, group: str, name: str) -> None:
    groups[group] = (*groups.get(group, _NONE), name)


def _leave(groups: Names, group: str, name: str) -> None:
    left = tuple(each for each in groups.get(group, _NONE) if each != name)
    if left:
        groups[group] = left
    else:
        groups.pop(group, None)
