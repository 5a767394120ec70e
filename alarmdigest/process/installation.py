"""What is wrong with an installation, and what to do about it."""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
CORE = "alarmdigest._ext"
# Packages that only some commands need, and the extra that brings each.
EXTRAS = {"cronsim": "schedule", "apprise": "deliver", "jinja2": "deliver"}
SUFFIX = EXTENSION_SUFFIXES[0]  # of this very Python


def what_to_do(error: ImportError) -> str:
    """About a module that cannot be imported."""
    of_core = CORE in f"{error.name} {error}" or "_ext" in (error.path or "")
    if (extra := EXTRAS.get((error.name or "").partition(".")[0])) is not None:
        package = f"alarmdigest[{extra}]"
        return f"this command needs {error.name}: {sys.executable} -m pip install '{package}'"
    if not of_core:
        return (
            f"the installation is not complete: {error}. Install alarmdigest again: "
            f"{sys.executable} -m pip install --force-reinstall alarmdigest"
        )
    again = "build it with `make build`" if _is_clone() else "install alarmdigest again"
    compiled = _compiled()
    if not compiled and _is_clone():
        return (
            f"{PACKAGE} is a clone whose core is not compiled: {again}, or leave that folder to "
            "use the alarmdigest that is installed (`python -m` takes what lies in the folder)"
        )
    if compiled and not any(file.name.endswith(SUFFIX) for file in compiled):
        return (
            f"the compiled core in {PACKAGE} is for another Python ({compiled[0].name}), and this "
            f"one needs *{SUFFIX}: {again}"
        )
    return f"the compiled core in {PACKAGE} does not fit ({error}): {again}"


def core_is_older_than_its_sources() -> bool:
    """In a clone: then whatever goes wrong may come of it."""
    built = [file.stat().st_mtime for file in _compiled() if file.name.endswith(SUFFIX)]
    sources = [file.stat().st_mtime for file in (PACKAGE.parent / "ext").glob("*/*.p[yx][xd]")]
    return bool(built) and bool(sources) and max(built) < max(sources)


def _compiled() -> list[Path]:
    return sorted((PACKAGE / "_ext").glob("*.so"))


def _is_clone() -> bool:
    return (PACKAGE.parent / "ext").is_dir()
