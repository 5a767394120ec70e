"""What a checkpoint holds when its barrier comes through the workers' queues at different times.

One worker is slow to meet each barrier. Meanwhile the others make digests of requests that lie
behind the barrier, and these reach the digest stream before the checkpoint is complete: they are
not part of it. The duplicate window is short and every restart later than it, so that only
the checkpoint decides what is published again.
"""

from __future__ import annotations

import signal

import pytest
from nats.js.api import StreamConfig
from support.bus import Bus
from support.faults import patched
from support.feeder import Feeder
from support.judge import DIGESTS, REJECTED
from support.nats_server import NatsServer
from support.stream_service import StreamService, assert_worth_judging, let_time_pass, settle
from support.wait import eventually

pytestmark = pytest.mark.slow

# Only the thread of the slow worker, or the reader, waits; all others go on.
SLOW_TO_MEET = """
import time
from alarmdigest.pipeline.worker import Worker
meet = Worker._hand_over_rows
def meet_late(self, barrier):
    if self.name == "worker-0":
        time.sleep(0.15)
    meet(self, barrier)
Worker._hand_over_rows = meet_late
"""


@pytest.mark.parametrize("failpoint", ["checkpointer.done:2", "publisher.confirmed:40"])
@pytest.mark.parametrize("workers", [2, 5])
def test_what_passes_a_barrier_that_is_under_way_is_neither_lost_nor_doubled(
    workers: int, failpoint: str
) -> None:
    with NatsServer() as server:
        with Bus(server.url) as bus:
            for name, subject in ((DIGESTS, "AlarmDigest"), (REJECTED, "AlarmRejected")):
                config = StreamConfig(name=name, subjects=[subject], duplicate_window=0.1)
                bus.run(bus.client.jetstream().add_stream(config))
        with (
            StreamService(
                server.url, workers=workers, failpoint=failpoint, program=patched(SLOW_TO_MEET)
            ) as service,
            Feeder(server.url, seed=workers, rate=2000) as feeder,
        ):
            for _ in range(2):
                eventually(lambda: service.process.poll() is not None, what="its death")
                assert service.wait() == -signal.SIGKILL, service.log
                let_time_pass(0.3)
                service.start(ready=False)
            eventually(lambda: service.process.poll() is not None, what="its last death")
            let_time_pass(0.3)
            service.change(workers=workers)
            service.start()
            feeder.wait_for(300)
            assert_worth_judging(settle(server.url, service, feeder), digests=50)


# What the publisher sends never reaches the server, and it does not notice.
NOTHING_GOES_OUT = """
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
send = PubAckConfirmer.send
def lose(self, connection, most):
    connection.send = lambda data: None
    try:
        return send(self, connection, most)
    finally:
        del connection.send
PubAckConfirmer.send = lose
"""


def test_a_checkpoint_waits_for_the_confirmations_of_all_digests_before_it() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url, program=patched(NOTHING_GOES_OUT)) as service,
        Feeder(server.url, seed=9, rate=2000) as feeder,
    ):
        feeder.wait_for(300)
        eventually(
            lambda: service.metric("alarmdigest_book_digests_total") > 50, what="digests made"
        )
        let_time_pass(1.0)  # five intervals
        assert service.metric("alarmdigest_unconfirmed_bytes") > 0
        service.kill()
        service.change(program=("-m", "alarmdigest"))
        service.start()
        assert_worth_judging(settle(server.url, service, feeder), digests=50)
