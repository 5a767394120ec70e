"""Until when an earlier run's messages may come again."""

import pytest

from alarmdigest.confirmations.pongs import PongWindow
from alarmdigest.nats.link import Link
from alarmdigest.publisher import Publisher
from alarmdigest.store import Position

MADE, LATER = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def at(sequence: int, created: str = MADE) -> Position:
    return Position("ALARMS", created, sequence, 1)


@pytest.mark.parametrize(
    ("end", "position", "behind"),
    [
        (at(10), at(9), False),
        (at(10), at(10), True),
        (at(10), at(1, LATER), True),  # made anew: the old messages will never come
        (None, None, False),
        (None, at(1), True),
    ],
)
def test_a_replay_ends_where_an_earlier_run_had_got_to(
    end: Position | None, position: Position | None, behind: bool
) -> None:
    publisher = Publisher(
        Link(["nats://127.0.0.1:1"], name="test", ping_interval=1.0),
        PongWindow("AlarmDigest", "AlarmRejected"),
        producers=1,
        replay_end=end,
        on_published=lambda *_: None,
        on_failure=lambda *_: None,
    )
    assert publisher._behind_replay(position) is behind
