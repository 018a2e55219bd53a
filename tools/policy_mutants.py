"""Plants one mistake at a time in a copy of the policy's code, and shows which test finds it.

`python tools/policy_mutants.py`: a line for each mistake; exit status 1 if one is not found. Minutes, not seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
POLICY = Path("src/entrepot/policy")


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    test: str


NAIVE = "tests/unit/test_policy_differential.py"
BRUTE = "tests/unit/test_policy_diff.py"
CEDAR = "tests/unit/test_policy_cedar.py"

MUTANTS = (
    Mutant("terms.py", "refusing=excepted, negated=True", "refusing=not excepted, negated=True", NAIVE),
    Mutant("terms.py", "asked = forbids and not rule.unknown_passes", "asked = forbids", NAIVE),
    Mutant("terms.py", "asked = forbids and not rule.unknown_passes", "asked = not rule.unknown_passes", NAIVE),
    Mutant("membership.py", "return None if value in listed.parts else False", "return False", NAIVE),
    Mutant("membership.py", ' or ("-" in value and country_of(value) in listed.values)', "", NAIVE),
    Mutant("rows.py", "reaches(self._fact.name", "reaches('org.owned_50'", NAIVE),
    Mutant("rows.py", "found[value] |= found[country_of(value)]", "pass", NAIVE),
    Mutant("rows.py", "inside if inside is None or not group.negated else not inside", "inside", NAIVE),
    Mutant("rows.py", "maybe = None if UNKNOWN in values else False", "maybe = False", NAIVE),
    Mutant("ownership.py", "share > threshold if above", "share >= threshold if above", NAIVE),
    Mutant("ownership.py", "most + _WHOLE_MICROS - declared", "most", NAIVE),
    Mutant("ownership.py", "most if inside[name] is False else 1", "most", NAIVE),
    Mutant("model.py", "if start is None else max(start, rule.revives_ms)", "", NAIVE),
    Mutant("program.py", "index = bisect_right(self.cuts, at_ms)", "index = bisect_right(self.cuts, at_ms - 1)", NAIVE),
    Mutant("program.py", "if not forbids:", "if not forbids or mask & self.permit:", NAIVE),
    Mutant("analysis/diff.py", "if not left & changed or", "if not left & changed & space.permit or", BRUTE),
    Mutant("analysis/diff.py", "certain & space.forbid & common", "certain & space.forbid & either", BRUTE),
    Mutant("analysis/diagram.py", "alike.get(key, frozenset()) | own", "own", BRUTE),
    Mutant("analysis/diagram.py", " * self._between(0, root.depth)", "", BRUTE),
    Mutant("analysis/diagram.py", "id(dimension), tolerated, rest)", "id(dimension), rest)", BRUTE),
    Mutant("analysis/space.py", "        yield UNKNOWN\n", "", BRUTE),
    Mutant("analysis/space.py", "switches[cut] ^= bits", "switches[cut] |= bits", BRUTE),
    Mutant("analysis/space.py", "frozenset((fact, name, False) for name in named)", "frozenset()", BRUTE),
    Mutant("analysis/prove.py", "or (permitted and refused)", "or refused", BRUTE),
    Mutant("analysis/cedar.py", "refusing=not forbids) for one in group", "refusing=forbids) for one in group", CEDAR),
    Mutant("analysis/cedar.py", "refusing = forbids and not rule.unknown_passes", "refusing = forbids", CEDAR),
    Mutant("analysis/cedar.py", "context.at < datetime", "context.at <= datetime", CEDAR),
)  # fmt: skip


def found(copy: Path, mutant: Mutant) -> bool:
    path = copy / POLICY / mutant.file
    sound = path.read_text(encoding="utf-8")
    if mutant.old not in sound:
        raise SystemExit(f"{mutant.file} does not hold `{mutant.old}` any more")
    path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": f"{copy / 'src'}", "POLICY_EXAMPLES": "800"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test]
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, check=False)
    path.write_text(sound, encoding="utf-8")
    return done.returncode == 1


def main() -> None:
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests/unit"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for mutant in MUTANTS:
            ok = found(copy, mutant)
            survivors += not ok
            told = f"{mutant.file}: `{mutant.old.strip()}` → `{mutant.new.strip()}`"
            print("found   " if ok else "SURVIVED", told, flush=True)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} found")
    raise SystemExit(survivors > 0)


if __name__ == "__main__":
    main()
