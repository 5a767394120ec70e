"""A disk that is full and has room again at will, under the data directory of a service."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.faults import patched
from support.service import ServiceProcess

MIB = 1024 * 1024


class SmallDisk:
    """``program`` and ``options`` are for the service that is to use it, which ``under`` takes
    before its start. ``fill`` and ``make_room`` act at once, and hold over its end and start."""

    program: tuple[str, ...] = ("-m", "alarmdigest")
    options: tuple[str, ...] = ()

    def fill(self) -> None:
        raise NotImplementedError

    def make_room(self) -> None:
        raise NotImplementedError

    @contextmanager
    def under(self, service: ServiceProcess) -> Iterator[None]:
        raise NotImplementedError
        yield


class MountedDisk(SmallDisk):
    """A real one, of memory. Only root can mount it."""

    def __init__(self, folder: Path, size: int = 64 * MIB) -> None:
        self._size = size
        self._folder = folder / "disk"
        self.options = "--data-dir", str(self._folder)

    @contextmanager
    def under(self, service: ServiceProcess) -> Iterator[None]:
        self._folder.mkdir()
        options = f"size={self._size},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self._folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self._folder], check=True)

    def fill(self) -> None:
        page = bytes(4096)
        with (self._folder / "filler").open("ab", buffering=0) as filler, suppress(OSError):
            while filler.write(page):
                pass

    def make_room(self) -> None:
        (self._folder / "filler").unlink()

    @staticmethod
    def possible() -> bool:
        """Whether we may mount."""
        made = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        )
        return os.geteuid() == 0 and made.returncode == 0


class LimitedFiles(SmallDisk):
    """A stand-in that needs no rights: no file of the service may be written behind its first
    page. Only Linux can take this back from outside."""

    def __init__(self, folder: Path) -> None:
        self._full = folder / "full"
        self._service: ServiceProcess | None = None
        self.program = patched(f"""
import os, resource
if os.path.exists({str(self._full)!r}):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
""")

    @contextmanager
    def under(self, service: ServiceProcess) -> Iterator[None]:
        self._service = service
        yield

    def fill(self) -> None:
        self._full.touch()
        self._limit(4096)

    def make_room(self) -> None:
        self._full.unlink()
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        assert self._service is not None
        if self._service.process.poll() is None:
            limits = size, resource.RLIM_INFINITY
            resource.prlimit(self._service.process.pid, resource.RLIMIT_FSIZE, limits)
