"""How many cases a test tries: some in every run, very many in `make test-long`."""

import os

LONG = os.environ.get("ALARMDIGEST_TEST_LONG", "0") not in ("", "0")


def cases(usual: int, long: int) -> int:
    """``usual``; or ``long`` where ALARMDIGEST_TEST_LONG=1 asks for it."""
    return long if LONG else usual
