"""Imports pynats2 in an environment without setuptools.

pynats2 0.9.0 imports ``pkg_resources`` for one thing, its own version number. setuptools dropped
that module in version 82, and many environments have no setuptools at all. So the import sees a
stand-in built on ``importlib.metadata``, which is taken away again: nobody else in the process
may mistake it for the real one.
"""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType


def _stand_in() -> ModuleType:
    module = ModuleType("pkg_resources")
    # Its one use is get_distribution("pynats2").version.
    module.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    return module


_real = sys.modules.get("pkg_resources")
if _real is None:
    sys.modules["pkg_resources"] = _stand_in()
try:
    from pynats2 import NATSNoSubscribeClient
    from pynats2.exceptions import NATSError
finally:
    if _real is None:
        del sys.modules["pkg_resources"]

__all__ = ["NATSError", "NATSNoSubscribeClient"]
