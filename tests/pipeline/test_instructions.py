"""The core takes no more instructions for a message than it did.

Times wobble by a third on a shared machine; instructions do not. They are counted with callgrind,
without Python's start: see ``support/counted_work.py``. What waits for memory or for another thread
is not seen here; ``make bench`` measures that.
"""

from __future__ import annotations

import pytest
from support.instructions import counted

from alarmdigest._ext.alarmbook import CHECKED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHECKED, reason="the core was built with ALARMDIGEST_DEBUG=1"),
]

# With Python 3.11 on x86-64: instructions for one event, row, request or digest, 10 % above what
# was counted. When they have changed for a reason, `make instructions` prints these lines anew.
LIMITS = {
    "core: new alarm": 8_590,
    "core: newer event of a known alarm": 8_450,
    "row of a changed alarm": 370,
    "core: request, digest of 25": 24_530,
    "core: digest of 25, framed": 1_780,
    "stream: new alarm": 9_620,
    "stream: newer event of a known alarm": 9_400,
    "stream: request, digest of 25": 77_380,
    "stream: digest of 25, framed": 2_050,
    "stream: digest confirmed": 950,
}
# A limit far above what is needed would let the next regression through.
LEAST_OF_LIMIT = 0.75


@pytest.fixture(scope="module")
def counts() -> dict[str, float]:
    return counted()


@pytest.mark.parametrize("what", LIMITS)
def test_it_takes_no_more_instructions(what: str, counts: dict[str, float]) -> None:
    count, limit = counts[what], LIMITS[what]
    assert count <= limit, f"{what}: {count:,.0f} instructions, the limit is {limit:,}"
    assert count >= LEAST_OF_LIMIT * limit, (
        f"{what}: {count:,.0f} instructions are far below the limit of {limit:,}. Well done: lower "
        "the limit with what `make instructions` prints"
    )


def test_everything_that_is_counted_has_a_limit(counts: dict[str, float]) -> None:
    assert list(counts) == list(LIMITS)
