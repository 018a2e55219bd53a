"""With ENTREPOT_COMPILE=1 the wheel's hot modules are compiled by mypyc; without, it is pure Python. The source is one.

With ENTREPOT_COMPILE=pgo they are compiled twice: first so that they count what runs in some thousand calls
(`tools/exercise.py`), then guided by these counts, so that what runs lies together. That needs GCC.

Which modules: those that run for every call or every chunk, but for those that decode JSON into their own structs
(msgspec cannot read the annotations of a compiled module, and its structs lose their options there: frozen, weakref),
and what makes a snapshot: compiled code never lets go of the interpreter, and a large world is compiled beside calls.
`make test-compiled` runs the tests on them, but for unit tests that hand compiled functions stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENABLED = os.environ.get("ENTREPOT_COMPILE", "")
HOT = tuple(
    f"{package}/{module}"
    for package, modules in (
        ("gateway", "access_log admit aggregated authenticate bounds call dispatch heads health ids journal limiting"),
        ("gateway", "records relay remembered routes serve settle upstreams"),
        ("http1", "client clock connection exchange head message outbox response run server upstream whole"),
        ("ledger", "commitments frames ledger log store tree writer"),
        ("limits", "rate reserve table"),
        ("origin", "resolve"),
        ("policy", "program"),
        ("projections", "prices"),
        ("providers", "answers"),
        ("snapshot", "parts"),
        ("wire", "body headers quotas sse trace usage"),
    )
    for module in modules.split()
)


class CompileHook(BuildHookInterface[Any]):
    """Builds the extension modules beside a copy of the source and adds them to the wheel."""

    def dependencies(self) -> list[str]:
        # mypy looks into what is imported, and the training runs it; mypy's version is that of uv.lock.
        return [*self.metadata.core.dependencies, "mypy==2.4.1", "setuptools"] if ENABLED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not ENABLED or self.target_name != "wheel" or version == "editable":
            return
        if ENABLED not in {"1", "pgo"}:
            raise ValueError(f"ENTREPOT_COMPILE is `{ENABLED}`; it is `1` or `pgo`, or not set")
        self._folder = Path(tempfile.mkdtemp(prefix="entrepot-compile-"))
        package = self._folder / "package"
        for module in compiled(Path(self.root), package, guided=ENABLED == "pgo"):
            build_data["force_include"][str(module)] = str(module.relative_to(package))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def compiled(root: Path, folder: Path, *, guided: bool) -> list[Path]:
    """The extension modules, at their places below `folder`. Needs a C compiler; GCC where it is `guided`."""
    from mypyc.build import mypycify  # only there when `dependencies` asked for it

    source = root / "src" / "entrepot"
    shutil.copytree(source, folder / "entrepot", ignore=shutil.ignore_patterns("*.gguf", "__pycache__"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        modules = mypycify(
            ["--strict", "--ignore-missing-imports", *(f"entrepot/{name}.py" for name in HOT)],
            opt_level="3",
            debug_level="0",
        )
        # Functions of a shared object that call each other need not allow for another's in their place.
        flags = [*modules[0].extra_compile_args, "-fno-semantic-interposition"]
        if guided:
            counts = folder.parent / "counts"
            build(
                modules,
                [*flags, f"-fprofile-generate={counts}", "-fprofile-update=prefer-atomic"],
                ["-fprofile-generate"],
            )
            train(root, folder, counts)
            # What the training did not reach is compiled as if there had been none.
            flags += [f"-fprofile-use={counts}", "-fprofile-partial-training", "-Wno-missing-profile"]
        build(modules, flags)
    finally:
        os.chdir(before)
    return sorted((folder / "entrepot").rglob("*.so")) + sorted(folder.glob("*.so"))


def build(modules: list[Any], flags: list[str], links: Sequence[str] = ()) -> None:
    from setuptools import Distribution

    for module in modules:
        module.extra_compile_args, module.extra_link_args = flags, list(links)
    command = Distribution({"name": "entrepot", "ext_modules": modules}).get_command_obj("build_ext")
    command.inplace = 1
    command.force = 1
    command.ensure_finalized()
    command.run()


def train(root: Path, folder: Path, counts: Path) -> None:
    """Calls through what is in `folder`, whose processes leave their counts when they end."""
    done = subprocess.run(  # noqa: S603 - of this repository
        [sys.executable, str(root / "tools" / "exercise.py"), str(folder)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root / "src")},
    )
    if done.returncode or not any(counts.glob("*.gcda")):
        raise RuntimeError(f"the training left no counts; ENTREPOT_COMPILE=1 compiles without:\n{done.stdout[-4000:]}")
