"""Names that rules ask for and a world does not have: a misspelt provider is a forbid that never matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from entrepot.policy.analysis.check import Finding
from entrepot.policy.conditions import is_literal, is_reference, set_name
from entrepot.policy.facts import FACTS
from entrepot.policy.model import Condition, Pack, Set, conditions_of
from entrepot.resources.model import World


def unknown_names(packs: Sequence[Pack], world: World) -> Iterator[Finding]:
    """A warning where a name of the world is near, else a note: a pack may speak of more than a world has."""
    there = _names(world)
    sets = {each.name: each for pack in packs for each in pack.sets}
    for rule in (rule for pack in packs for rule in pack.rules):
        seen: set[tuple[str, str]] = set()
        for condition in conditions_of(rule):
            known = there.get(condition.fact)
            if known is None:
                continue
            for name in sorted(_asked(condition, sets) - known):
                if (condition.fact, name) in seen:
                    continue
                seen.add((condition.fact, name))
                near = get_close_matches(name, sorted(known), n=1, cutoff=0.75)
                what = f"asks for `{condition.fact}` `{name}`, which this world does not have"
                fix = f"did you mean `{near[0]}`?" if near else "nothing, if that is so"
                yield Finding("warning" if near else "note", rule.place, rule.id, what, fix)


def _asked(condition: Condition, sets: dict[str, Set]) -> set[str]:
    asked = set(filter(is_literal, condition.values))
    for reference in filter(is_reference, condition.values):
        asked.update(member.value for member in sets[set_name(reference)].members)
    return asked


def _names(world: World) -> dict[str, frozenset[str]]:
    """The values of free names that this world can have."""
    operators = frozenset(operator.name for operator in world.operators)
    found = {
        "target.provider": frozenset(provider.name for provider in world.providers),
        "target.model": frozenset(model.partition("@")[0] for one in world.upstreams for model in one.models),
        "target.region": frozenset(region.name for region in world.regions),
        "target.zone": frozenset(zone for region in world.regions for zone in region.zones),
        "target.operator": operators,
        "account.operator": operators,
        "org.eligibility": frozenset(one.name for each in world.organizations for one in each.eligibility),
        "org.flag": frozenset(flag for each in world.organizations for flag in each.flag),
    }
    assert found.keys() == {name for name, fact in FACTS.items() if fact.kind in {"name", "names"}}
    return found
