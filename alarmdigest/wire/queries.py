"""Questions of operators and of a scheduler, as they are asked over NATS below
``--query-subject``: docs/wire.md."""

from __future__ import annotations

from typing import Final

#: Each is a subject below that of questions.
NAMES: Final = ("show", "users", "trace", "watch", "due")
#: By what the topmost users are chosen; in the order of ext/state/listing.pxd.
ORDERS: Final = ("wait", "due", "active", "alarms")
MOST_TOP: Final = 1000
#: How long a user is traced at most, in seconds.
LONGEST_TRACE_S: Final = 24 * 3600
#: For how long one question has users told who become due, in seconds.
LONGEST_WATCH_S: Final = 3600


def addressee(*, requests: str, digests: str, group: str) -> dict[str, str]:
    """Whom a question is for, since several services may hear it: the one with these subjects, and
    of this group, if one is named."""
    named = {"requests": requests, "digests": digests, "group": group}
    return {name: value for name, value in named.items() if value}
