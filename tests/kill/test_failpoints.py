"""kill -9 of the service at the places where half of something is done, each by its name.

``ALARMDIGEST_FAILPOINT=name:N`` makes the service kill itself when it gets there the Nth time.
"""

import signal
from contextlib import ExitStack

import pytest
from support.feeder import Feeder
from support.nats_server import NatsServer
from support.scale import LONG
from support.stream_service import StreamService, assert_worth_judging, settle
from support.wait import eventually

pytestmark = pytest.mark.slow

FAILPOINTS = [
    "listener.before_barrier",
    "listener.after_barrier",
    "worker.rows_taken",
    "publisher.first_barrier",
    "publisher.before_send",
    "publisher.after_send",
    "publisher.confirmed",
    "checkpointer.before_write",
    "store.between_rows_and_position",
    "store.after_write",
    "checkpointer.done",
]


# Each the first time and the third in the long run, and in every run one or the other.
EVERY = [(name, number) for name in FAILPOINTS for number in (1, 3)]
SOME = [(name, (1, 3)[place % 2]) for place, name in enumerate(FAILPOINTS)]


@pytest.mark.parametrize(("name", "number"), EVERY if LONG else SOME)
def test_killed_at(name: str, number: int) -> None:
    """A clean start first, so that there is a position to come back to, and a state to change."""
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=number, rate=2000) as feeder,
    ):
        feeder.wait_for(300)
        assert service.stop() == 0
        service.change(failpoint=f"{name}:{number}")
        service.start(ready=False)
        eventually(lambda: service.process.poll() is not None, what=f"the death at {name}")
        assert service.wait() == -signal.SIGKILL, service.log
        service.change()
        service.start()
        feeder.wait_for(300)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected, digests=50)


def test_killed_at_its_very_first_checkpoint() -> None:
    """There is a store by then, and no position in it."""
    with NatsServer() as server, ExitStack() as at_the_end:
        # Only to make the streams, so that the feeder finds them.
        with StreamService(server.url):
            pass
        feeder = at_the_end.enter_context(Feeder(server.url, seed=31, rate=2000))
        feeder.wait_for(300)
        service = StreamService(server.url, failpoint="store.between_rows_and_position:1")
        at_the_end.push(service)
        service.start(ready=False)
        eventually(lambda: service.process.poll() is not None, what="the death")
        assert service.wait() == -signal.SIGKILL, service.log
        service.change()
        service.start()
        feeder.wait_for(300)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected, digests=50)
