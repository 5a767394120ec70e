"""Names that are nobody's: variables that look like settings of ours and are none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping

PREFIX = "ALARMDIGEST_"
# Others of ours: of tests and benchmarks (ALARMDIGEST_FAILPOINT, too), and of the build (setup.py).
NO_SETTINGS = re.compile(r"TEST_\w*|BENCH_\w*|FAILPOINT|DEBUG|TRACE|ANNOTATE|SANITIZE")
# What Kubernetes tells every container about a Service called alarmdigest, or alarmdigest-this.
SERVICE = re.compile(r"(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
# Its ..._PORT is a URL, which a person who mistypes --http would not write.
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


def unknown_variables(environment: Mapping[str, str], known: Collection[str]) -> Iterator[str]:
    """A line of warning for each variable that was meant for us, and that nothing reads.

    ``known`` are the names of all that something reads.
    """
    settings = [name.removeprefix(PREFIX) for name in known]
    for name, text in sorted(environment.items()):
        rest = name.removeprefix(PREFIX)
        if rest == name or name in known or NO_SETTINGS.fullmatch(rest) or SERVICE.fullmatch(rest):
            continue
        if re.fullmatch(r"(\w+_)?PORT", rest) and SERVICE_URL.match(text):
            continue
        # Without the prefix, by which everything is alike.
        hint = nearest(rest, settings, before=PREFIX)
        yield f"the variable {name} is set, and there is no such setting{hint}"


def nearest(name: str, known: Collection[str], *, before: str = "") -> str:
    """``; did you mean 'this'?``, or nothing if none of them is alike."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {before + found[0]!r}?" if found else ""
