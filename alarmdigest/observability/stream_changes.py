"""What happened to the streams under the service that was not done by publishing."""

from __future__ import annotations

from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.service import Service
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource

CHANGES = ("input_recreated", "input_truncated", "output_recreated", "output_truncated")


def stream_changes(service: Service) -> dict[str, int]:
    """How often each of CHANGES was found since the start of the process; all are always there.

    The output streams are the one of the digests and the one of the rejections; ``happenings`` say
    which it was.
    What was lost is not counted here but in ``losses``, where the stream can tell it.
    """
    found = dict.fromkeys(CHANGES, 0)
    listener, publisher = service.listener, service.publisher
    if listener is not None and isinstance(listener.source, PullConsumerSource):
        found["input_recreated"] = listener.source.counters.recreated
        found["input_truncated"] = listener.source.counters.truncated
    if publisher is not None and isinstance(publisher.confirmer, PubAckConfirmer):
        found["output_recreated"] = publisher.confirmer.recreated
        found["output_truncated"] = publisher.confirmer.truncated
    return found
