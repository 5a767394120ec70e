"""Builds the compiled core: every ``ext/ROOM/NAME.pyx`` becomes ``alarmdigest._ext.NAME``.

Everything else about the package stands in ``pyproject.toml``. Switches, by environment variable:

``ALARMDIGEST_DEBUG=1``     no optimisation, assertions and Cython's own bounds checks on
``ALARMDIGEST_TRACE=1``     line tracing, so that a coverage tool or profiler sees inside
``ALARMDIGEST_ANNOTATE=1``  an HTML page per module that shows where Python is called
``ALARMDIGEST_SANITIZE=1``  AddressSanitizer and UndefinedBehaviorSanitizer (``make sanitize``)
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup


def switch(name: str) -> bool:
    return os.environ.get(f"ALARMDIGEST_{name}", "0") not in ("", "0")


debug, trace, sanitize = switch("DEBUG"), switch("TRACE"), switch("SANITIZE")

compile_args = ["-O0", "-g", "-UNDEBUG"] if debug else ["-O3"]
link_args: list[str] = []
if sanitize:
    compile_args += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    link_args += ["-fsanitize=address,undefined"]

macros: list[tuple[str, str | None]] = [("ALARMDIGEST_DEBUG", "1")] if debug or sanitize else []
if trace:
    macros += [
        ("CYTHON_TRACE", "1"),
        ("CYTHON_TRACE_NOGIL", "1"),
        ("CYTHON_USE_SYS_MONITORING", "0"),
    ]

modules = [
    Extension(
        f"alarmdigest._ext.{source.stem}",
        [str(source)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=macros,
    )
    for source in sorted(Path("ext").glob("*/*.pyx"))
]

setup(
    ext_modules=cythonize(
        modules,
        # The modules share declarations through ext/*/*.pxd, whose functions are all inline: each
        # module holds its own copy and none has to find another one when it is imported.
        include_path=["ext/wire", "ext/state", "ext/rows"],
        build_dir="build/cython",
        annotate=switch("ANNOTATE"),
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            # Objects of the core belong to one thread each, which the GIL does not enforce but
            # much of the code around them relies on: a free-threaded interpreter turns it on.
            "freethreading_compatible": False,
            "linetrace": trace,
        },
    )
)
