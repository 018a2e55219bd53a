"""Says which build of Entrepot an interpreter has: version, compiled or pure, and whose interpreter it is."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from entrepot.gateway import serve

kind = "compiled" if serve.__file__.endswith(".so") else "pure"
build = "the distribution's build" if sys.base_prefix == "/usr" else "a build of its own"
print(f"entrepot {importlib.metadata.version('entrepot')}, {kind}, on CPython {platform.python_version()}, {build}")
