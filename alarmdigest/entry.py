"""Where the process begins: what must be so before anything else is imported, and its end."""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from alarmdigest import exit_codes

CORE = "alarmdigest._ext"


def main() -> int:
    """Run the command of ``sys.argv``; the exit code."""
    _open_standard_files()
    try:
        from alarmdigest.cli import main as run_command

        code = run_command()
    except ImportError as error:  # each command imports what it needs itself
        print(f"alarmdigest: {_what_to_do(error)}", file=sys.stderr)
        return exit_codes.USAGE
    except MemoryError:
        print("alarmdigest: out of memory before the start", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    _flush_standard_files()
    return code


def _open_standard_files() -> None:
    """Whoever started us may have closed some: then the next socket would be our stderr."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, which is this one
            opened = open(fd, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)


def _flush_standard_files() -> None:
    """What cannot be written at the very end must not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _what_to_do(error: ImportError) -> str:
    package = Path(__file__).parent
    of_core = CORE in f"{error.name} {error}" or "_ext" in (error.path or "")
    if not of_core:
        return (
            f"the installation is not complete: {error}. Install alarmdigest again: "
            f"{sys.executable} -m pip install --force-reinstall alarmdigest"
        )
    again = "build it with `make build`" if _is_clone(package) else "install alarmdigest again"
    compiled = sorted(path.name for path in (package / "_ext").glob("*.so"))
    if not compiled and _is_clone(package):
        return (
            f"{package} is a clone whose core is not compiled: {again}, or leave that folder to "
            "use the alarmdigest that is installed (`python -m` takes what lies in the folder)"
        )
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if compiled and not any(name.endswith(suffix) for name in compiled):
        return (
            f"the compiled core in {package} is for another Python ({compiled[0]}), and this one "
            f"needs *{suffix}: {again}"
        )
    return f"the compiled core in {package} does not fit ({error}): {again}"


def _is_clone(package: Path) -> bool:
    return (package.parent / "ext").is_dir()
