"""A disk that takes its time to sync while a file says so: a library preloaded into the service."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd)
{
    static int (*really)(int);
    if (!really)
        really = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    while (access(getenv("SLOW_SYNC_WHILE"), F_OK) == 0)
        usleep(10000);
    return really(fd);
}
"""


class SlowDisk:
    """``environment`` is for the service. No sync ends between ``stall`` and ``go_on``."""

    def __init__(self, folder: Path) -> None:
        source, library = folder / "slow.c", folder / "slow.so"
        self._stalled = folder / "stalled"
        source.write_text(SOURCE)
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        subprocess.run([*compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.environment = {
            "LD_PRELOAD": str(library),
            "SLOW_SYNC_WHILE": str(self._stalled),
        }

    def stall(self) -> None:
        self._stalled.touch()

    def go_on(self) -> None:
        self._stalled.unlink()
