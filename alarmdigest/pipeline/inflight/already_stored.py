"""Which messages the output streams already held when this process started.

After a restart the input is read again from the last checkpoint, and this produces the same
messages with the same ids. Those that their output stream already holds, after the position saved
in the checkpoint, are not sent again, however old they are. Their ids are read while the replay
goes on, so memory holds only the ids between where the output stream has been read and where the
replay of the input has come to, and not those of a whole long outage.
A rejected message does not say which input it came from, so an id of one that is never produced
again stays in memory until the end of the replay.

In a group: what the digest stream held when this replica was elected. Rejected messages are not
looked up there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from alarmdigest._ext.inflight import DIGEST
from alarmdigest.nats.errors import NatsError
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 0.3


class AlreadyStored:
    """One reader for each output stream, by kind of message; none when there is nothing left that
    should not be sent again.

    ``suppressed`` counts messages, by kind, that were made again and not sent again.
    """

    def __init__(self, readers: Sequence[StoredIdsReader]) -> None:
        self.readers = list(readers)
        self.suppressed = [0, 0]
        self._unreadable = False  # the last read failed, and digests do not wait for it
        self._trouble = LimitedLog(log, logging.WARNING)

    def decide(self, records: bytes, go_on: Callable[[], bool]) -> list[int] | None:
        """Which of these records their stream holds, by their numbers in the batch.

        Reads on until it is known of each; of rejected messages only if that can be read now, else
        they are taken for new ones. None if ``go_on()`` was false before.
        """
        stored: list[int] = []
        for kind, reader in enumerate(self.readers):
            found, missing = reader.ids.take_made(records, kind)
            while missing and not reader.done:
                if not self._read(reader, go_on, waits=kind == DIGEST):
                    return None
                if self._unreadable:
                    break  # digests do not wait for the stream of rejected messages
                more, missing = reader.ids.take_made(records, kind, missing)
                found += more
            self.suppressed[kind] += len(found)
            stored += [number for number, _sequence in found]
        return stored

    def position(self, kind: int, confirmed: tuple[int, bytes]) -> tuple[int, bytes]:
        """The last position before everything that the replay has still to make again: a sequence,
        and the id there, b"" if it is not known.

        ``confirmed``: the greatest position known, of what was confirmed since the start or else
        of the checkpoint.
        """
        reader = self.readers[kind]
        if first := reader.ids.first_sequence:
            return first - 1, b""
        read = (reader.ids.sequence, reader.ids.newest_id)
        return max(read, confirmed) if reader.done else read

    def note_stored_through(self, input_sequence: int) -> None:
        """Everything that comes from input up to there is stored."""
        for reader in self.readers:
            reader.ids.drop_passed(input_sequence)

    def close(self) -> None:
        for reader in self.readers:
            reader.close()

    def _read(self, reader: StoredIdsReader, go_on: Callable[[], bool], *, waits: bool) -> bool:
        self._unreadable = False
        try:
            reader.read(go_on)
        except NatsError as error:
            self._trouble("cannot read what an output stream holds; trying again", reason=error)
            self._unreadable = not waits
            if self._unreadable:
                return go_on()
            resume_at = time.monotonic() + RETRY_PAUSE_S
            while time.monotonic() < resume_at and go_on():
                time.sleep(RETRY_PAUSE_S / 10)
        return go_on()
