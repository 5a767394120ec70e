"""Text that somebody else has written, shown to people."""

from __future__ import annotations

import codecs

# Its module is read now: while the service runs, an upgrade may move it away.
codecs.lookup("unicode_escape")


def printable(text: str) -> str:
    """One line of it, without what a terminal would obey: written as escapes instead."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
