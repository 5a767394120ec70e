"""Imports pynats2 without setuptools, and without the metadata of installed packages.

pynats2 0.9.0 imports ``pkg_resources`` for one thing, its own version number, which it looks up for
every connection and which ours do not use. setuptools dropped that module in version 82, and what
it reads may be gone while we run: an upgrade replaces it, and there may be no descriptor left to
open it. So the import sees a stand-in, which is taken away again: nobody else in the process may
mistake it for the real one.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace


def _stand_in() -> ModuleType:
    module = ModuleType("pkg_resources")
    # Its one use is get_distribution("pynats2").version.
    module.get_distribution = lambda _name: SimpleNamespace(version="")  # type: ignore[attr-defined]
    return module


_real = sys.modules.get("pkg_resources")
sys.modules["pkg_resources"] = _stand_in()
try:
    from pynats2 import NATSNoSubscribeClient
    from pynats2.exceptions import NATSError
finally:
    if _real is None:
        del sys.modules["pkg_resources"]
    else:
        sys.modules["pkg_resources"] = _real

__all__ = ["NATSError", "NATSNoSubscribeClient"]
