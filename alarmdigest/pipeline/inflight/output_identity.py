"""Whether an output stream is the one that is known, by the message at the position in it."""

from __future__ import annotations

import logging
from typing import NamedTuple

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamDenied
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.runtime.incidents import incidents

log = logging.getLogger(__name__)


class StreamComparison(NamedTuple):
    """``seems_recreated``: it was made at another time. ``known_up_to``: only up to this sequence
    is true what was known of it, 0 for another stream; None if all is."""

    seems_recreated: bool
    known_up_to: int | None


class OutputIdentity:
    """``created`` says, by kind of message, when its stream was made, as the server writes it: a
    hint, which some servers change. ``changes`` counts since the start of the process."""

    def __init__(self, created: list[str]) -> None:
        self.created = created
        self.changes = {"output_recreated": 0, "output_truncated": 0}

    def check(
        self, js: JetStream, kind: int, info: StreamInfo, sequence: int, message_id: bytes
    ) -> StreamComparison:
        """Compare a stream with the one of the last look. ``message_id`` is that of the message at
        ``sequence``; 0: nothing is known of its messages. Raises NatsError."""
        created = self.created[kind]
        known_up_to = None
        if sequence > info.last_seq and created == info.created:
            known_up_to = info.last_seq
            self._note(
                "output_truncated",
                f"{info.name} has lost its newest messages: its last is {info.last_seq}, it had "
                f"confirmed {sequence}",
            )
        elif sequence and not _is_known(js, info, sequence, message_id, created):
            known_up_to = 0
            self._note(
                "output_recreated",
                f"{info.name} is another stream than before: message {sequence} is not the one "
                f"that it had confirmed; it was made at {info.created}",
            )
        self.created[kind] = info.created
        return StreamComparison(created not in ("", info.created), known_up_to)

    def _note(self, change: str, sentence: str) -> None:
        self.changes[change] += 1
        incidents.record(change, sentence, 1)
        log.error("%s", sentence)


def _is_known(
    js: JetStream, info: StreamInfo, sequence: int, message_id: bytes, created: str
) -> bool:
    """Whether the stream is the one whose message at ``sequence`` had this id."""
    if not message_id:
        return created == info.created
    try:
        stored = js.stored_message(info.name, sequence)
    except JetStreamDenied:  # by permissions as they were for the first versions
        return created == info.created
    if stored is not None:
        return b"Nats-Msg-Id: " + message_id in stored[0]
    # Deleted: all that is left lies after it, or it was taken out singly. A stream that never had
    # it was made at another time; where a server changes that without reason, too much is read.
    return info.first_seq > sequence or created == info.created
