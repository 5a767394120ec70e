"""A replica that computes something else than the others, once it is told so."""

from __future__ import annotations

from pathlib import Path

_PROGRAM = (
    "import itertools, pathlib, alarmdigest.pipeline.worker as worker; "
    "real = worker.Worker._merge; "
    "count = itertools.count(); "
    "lie = lambda self, batch: None if pathlib.Path({path!r}).exists() and next(count) % 3 == 0 "
    "else real(self, batch); "
    "worker.Worker._merge = lie; "
    "import runpy; runpy.run_module('alarmdigest', run_name='__main__', alter_sys=True)"
)


def forgets_batches_once_there_is(path: Path) -> tuple[str, str]:
    """Arguments for Python: workers that lose every third batch once this file is there."""
    return "-c", _PROGRAM.format(path=str(path))
