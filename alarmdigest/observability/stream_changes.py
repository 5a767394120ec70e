"""How often the streams under the service were recreated, or lost their newest messages."""

from __future__ import annotations

from alarmdigest.pipeline.service import Service

CHANGES = ("input_recreated", "input_truncated", "output_recreated", "output_truncated")


def stream_changes(service: Service) -> dict[str, int]:
    """How often each of CHANGES was found since the start of the process; all are always there.

    There are two output streams, for digests and for rejected messages; ``incidents`` say which one
    it was. Lost messages are counted in ``losses``, if the stream can tell how many they are.
    """
    found = dict.fromkeys(CHANGES, 0)
    listener, publisher = service.listener, service.publisher
    if listener is not None:
        found |= listener.source.stream_changes
    if publisher is not None and publisher.confirmer.lookup is not None:
        found |= publisher.confirmer.lookup.stream_changes
    return found
