"""With ENTREPOT_COMPILE=1 the wheel's hot modules are compiled by mypyc; without, it is pure Python. The source is one.

Which modules: those that run for every call or every chunk, but for those that decode JSON into their own structs
(msgspec cannot read the annotations of a compiled module), and `snapshot`: compiled code never lets go of the
interpreter, and a large world is compiled beside calls.
`make test-compiled` runs the tests on them, but for unit tests that hand compiled functions stand-ins.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENABLED = os.environ.get("ENTREPOT_COMPILE") == "1"
HOT = tuple(
    f"{package}/{module}"
    for package, modules in (
        ("gateway", "admit aggregated authenticate bounds call dispatch heads health ids journal limiting"),
        ("gateway", "records relay remembered routes serve settle upstreams"),
        ("http1", "client clock connection exchange head message outbox response run server upstream"),
        ("ledger", "frames ledger log store tree writer"),
        ("limits", "rate reserve table"),
        ("origin", "resolve"),
        ("policy", "program"),
        ("projections", "prices"),
        ("wire", "body headers quotas sse"),
    )
    for module in modules.split()
)


class CompileHook(BuildHookInterface[Any]):
    """Builds the extension modules beside a copy of the source and adds them to the wheel."""

    def dependencies(self) -> list[str]:
        # mypy looks into what is imported; its own version is that of uv.lock.
        imported = [
            "cryptography",
            "httptools",
            "iptocc",
            "maxminddb",
            "msgspec",
            "prometheus-client",
            "tomli",
            "uvloop",
        ]
        return [*imported, "mypy==2.4.1", "setuptools"] if ENABLED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not ENABLED or self.target_name != "wheel" or version == "editable":
            return
        self._folder = Path(tempfile.mkdtemp(prefix="entrepot-compile-"))
        for module in compiled(Path(self.root) / "src", self._folder):
            build_data["force_include"][str(module)] = str(module.relative_to(self._folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def compiled(source: Path, folder: Path) -> list[Path]:
    """The extension modules, at their places below `folder`. Needs a C compiler."""
    from mypyc.build import mypycify  # only there when `dependencies` asked for it
    from setuptools import Distribution

    shutil.copytree(source / "entrepot", folder / "entrepot", ignore=shutil.ignore_patterns("*.gguf", "__pycache__"))
    before = Path.cwd()
    os.chdir(folder)
    # Functions of a shared object that call each other need not allow for another's in their place.
    os.environ["CFLAGS"] = f"{os.environ.get('CFLAGS', '')} -fno-semantic-interposition"
    try:
        modules = mypycify(
            ["--strict", "--ignore-missing-imports", *(f"entrepot/{name}.py" for name in HOT)],
            opt_level="3",
            debug_level="0",
        )
        command = Distribution({"name": "entrepot", "ext_modules": modules}).get_command_obj("build_ext")
        command.inplace = 1
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    shutil.rmtree(folder / "build", ignore_errors=True)
    return sorted(folder.rglob("*.so"))
