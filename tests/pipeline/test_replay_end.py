"""Until when an earlier run's messages may come again."""

import pytest

from alarmdigest.state.position import StreamPosition


def at(sequence: int, timestamp_ns: int = 1) -> StreamPosition:
    return StreamPosition("ALARMS", "2026-01-01T00:00:00Z", sequence, timestamp_ns)


@pytest.mark.parametrize(
    ("end", "position", "after"),
    [
        (at(10), at(9), False),
        (at(10), at(10), True),
        (at(10), at(1, timestamp_ns=2), True),  # recreated: the old messages will never come
        (None, at(1), True),
    ],
)
def test_a_replay_ends_where_an_earlier_run_had_got_to(
    end: StreamPosition | None, position: StreamPosition, after: bool
) -> None:
    assert (end is None or position.reaches(end)) is after
