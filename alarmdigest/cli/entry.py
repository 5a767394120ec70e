"""Where the process begins: what must be so before anything else is imported, and its end."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from alarmdigest.process.blocked_signals import BLOCKED_SIGNALS
from alarmdigest.process.installation import what_to_do
from alarmdigest.runtime import exit_codes


def main() -> int:
    """Run the command of ``sys.argv``; the exit code."""
    _open_standard_files()
    # Until the command says what they are to do they wait: now they would be our end, or, for the
    # first process of a container, be thrown away.
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    try:
        from alarmdigest.cli.main import main as run_command

        code = run_command()
    except ImportError as error:  # each command imports what it needs itself
        print(f"alarmdigest: {what_to_do(error)}", file=sys.stderr)
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
