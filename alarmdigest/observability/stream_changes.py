"""What happened to the streams under the service that was not done by publishing."""

from __future__ import annotations

from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.service import Service
from alarmdigest.pipeline.sources.pull_consumer import StreamFeed

CHANGES = ("input_made_anew", "input_rolled_back", "output_made_anew", "output_rolled_back")


def stream_changes(service: Service) -> dict[str, int]:
    """How often each of CHANGES was found since the start of the process; all are always there.

    The output streams are the one of the digests and the one of the refusals; ``happenings`` say
    which it was.
    What was lost is not counted here but in ``losses``, where the stream can tell it.
    """
    found = dict.fromkeys(CHANGES, 0)
    listener, publisher = service.listener, service.publisher
    if listener is not None and isinstance(listener.feed, StreamFeed):
        found["input_made_anew"] = listener.feed.counters.made_anew
        found["input_rolled_back"] = listener.feed.counters.rolled_back
    if publisher is not None and isinstance(publisher.confirmer, PubAckConfirmer):
        found["output_made_anew"] = publisher.confirmer.recreated
        found["output_rolled_back"] = publisher.confirmer.truncated
    return found
