"""The thread that makes snapshots of the store, for a replica or a machine whose disk is empty.

The pipeline knows nothing of it: the copy is made by another process from the last checkpoint, and
goes to the server over a connection of its own. Whatever goes wrong is logged and counted, and
tried again later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.object_bucket import BucketMissing
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.replica import Replica, default_name
from alarmdigest.pipeline.snapshot_terms import SnapshotTerms, newest, open_bucket
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshots import Snapshots
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.runtime.service_thread import TICK_S
from alarmdigest.settings import Settings
from alarmdigest.state.position import StreamPosition
from alarmdigest.store.base import Store, StoreError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
# Until there is a checkpoint, and somebody whose business it is.
FIRST_LOOKS_EVERY_S = 1.0
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 600.0
SAY_AGAIN_S = 60.0
# How long the end of a service waits for a server that is not there.
LAST_CONNECT_S = 3.0


class _Ended(Exception):
    """There is no time any more for the snapshot that is being made."""


class SnapshotMaker(threading.Thread):
    """Makes snapshots until ``stop()``; in a group, while that is the business of this replica.

    ``newest`` is the newest usable one that anybody has made, None if there is none or it is not
    known yet; ``seconds`` is how long our last one took. Any thread may read these and the counts.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        settings: Settings,
        store: Store,
        content_settings: Mapping[str, int],
        replica: Replica | None,
    ) -> None:
        super().__init__(name="snapshots", daemon=True)
        self.newest: SnapshotInfo | None = None
        self.made = 0
        self.failures = 0
        self.seconds = 0.0
        self._reconnector = reconnector
        self._settings = settings
        self._store = store
        self._terms = SnapshotTerms.of(settings, content_settings)
        made_by = default_name() if replica is None else replica.identity.name
        self._about = self._terms.about(made_by)
        self._replica = replica
        self._stopping = threading.Event()
        self._interval_s = settings.snapshot_interval.seconds
        self._retry_s = 0.0
        self._not_before = 0.0
        self._made_at = 0.0
        self._trouble = LimitedLog(log, logging.WARNING, interval_s=SAY_AGAIN_S)

    def stop(self) -> None:
        """Give up what is being made. Does not wait."""
        self._stopping.set()

    def make_last(self, go_on: Callable[[], bool]) -> None:
        """In the caller's thread, behind ``stop()``: one more of the store as it is now, unless
        there is one, for as long as ``go_on()`` is true. Raises nothing."""
        self.stop()
        while self.is_alive() and go_on():
            self.join(TICK_S)
        deadline = time.monotonic() + LAST_CONNECT_S
        if self.is_alive() or self._position is None:
            return
        try:
            connection = self._reconnector.connect_with_backoff(
                lambda: go_on() and time.monotonic() < deadline
            )
            if connection is None:
                return
            try:
                objects = open_bucket(connection, self._settings)
                snapshots = Snapshots(objects, self._terms.group)
                self._look_for_newest(snapshots)
                if self.newest is None or self.newest.sequence < self._position.sequence:
                    self._make(snapshots, objects, "the service stops", go_on)
            finally:
                connection.close()
        except Exception as error:
            self._failed(error)

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                connection = self._reconnector.connect_with_backoff(self._go_on)
                if connection is None:
                    return
                try:
                    self._serve(connection)
                finally:
                    connection.close()
            except _Ended:
                return
            except Exception as error:
                # Not only what we expect: nothing that goes wrong here may end the service.
                if self._stopping.is_set():
                    return
                self._failed(error)
                self._stopping.wait(self._retry_s)

    def _go_on(self) -> bool:
        return not self._stopping.is_set()

    def _serve(self, connection: Connection) -> None:
        objects = open_bucket(connection, self._settings)
        snapshots = Snapshots(objects, self._terms.group)
        while self._go_on():
            self._look_for_newest(snapshots)
            position, turn = self._position, self._is_our_turn
            if position is not None and turn and time.monotonic() >= self._not_before:
                stream = objects.stream_info(self._terms.stream)
                if stream is not None and (why := self._due(position, stream)):
                    self._make(snapshots, objects, why, self._go_on)
            waits = self.newest is None and (position is None or not turn)
            pause_s = FIRST_LOOKS_EVERY_S if waits else self._look_every_s
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._is_asked_for:
                if self._stopping.wait(FIRST_LOOKS_EVERY_S):
                    break

    @property
    def _is_our_turn(self) -> bool:
        return self._replica is None or self._replica.makes_snapshots()

    @property
    def _look_every_s(self) -> float:
        return min(LOOK_EVERY_S, self._interval_s / 4)

    @property
    def _position(self) -> StreamPosition | None:
        """Of the last checkpoint; None while that is one of before a change of settings, from which
        nobody could start."""
        last = self._store.last
        if last is None or last.settings != self._terms.content_settings:
            return None
        return last.position

    @property
    def _is_asked_for(self) -> bool:
        return self._replica is not None and (
            self._replica.exchange.snapshot_asked_at > self._made_at
        )

    def _look_for_newest(self, snapshots: Snapshots) -> None:
        try:
            self.newest = newest(snapshots, self._terms)
        except BucketMissing:
            self.newest = None

    # -- when ------------------------------------------------------------------------------------

    def _due(self, position: StreamPosition, stream: StreamInfo) -> str:
        """Why one is to be made now; empty if none is."""
        found, now_ns = self.newest, stream.server_ns or time.time_ns()
        if self._is_asked_for and (found is None or position.sequence > found.sequence):
            return "a replica has asked for one"
        if found is None:
            return "there is none to start from"
        if now_ns - found.stored_at_ns >= self._settings.snapshot_interval:
            return f"the newest is {(now_ns - found.stored_at_ns) / 1e9:.0f} s old"
        if position.sequence > found.sequence and in_older_half(found, stream, now_ns):
            return f"stream {stream.name} may soon remove what comes behind the newest"
        return ""

    # -- making ----------------------------------------------------------------------------------

    def _make(
        self, snapshots: Snapshots, objects: ObjectStore, why: str, go_on: Callable[[], bool]
    ) -> None:
        """Raises whatever ``Snapshots.write`` raises, and _Ended."""

        def alive() -> None:
            if not go_on():
                raise _Ended

        last = self._store.last
        if last is None:
            return
        info_now = SnapshotInfo.of(self._terms.group, last, self._about)
        if useless := snapshots.misfit(info_now, stream=self._terms.stream):
            # It would take the place of one that is of use.
            self._not_before = time.monotonic() + FIRST_RETRY_S
            self._trouble("no snapshot is made: nobody could start from it", reason=useless)
            return
        started = self._made_at = time.monotonic()
        objects.ensure(create=not self._settings.no_create_streams)
        info = snapshots.write(self._settings.data_dir, about=self._about, sign_of_life=alive)
        if info is None:
            return
        self.seconds = time.monotonic() - started
        self.newest = info
        self.made += 1
        self._retry_s = 0.0
        self._not_before = time.monotonic() + self._look_every_s
        log.info(
            "made a snapshot:%s",
            Fields(
                snapshot=info.name,
                position=info.sequence,
                bytes=info.size,
                seconds=self.seconds,
                because=why,
            ),
        )

    def _failed(self, error: Exception) -> None:
        if isinstance(error, _Ended):
            log.warning("no time for a last snapshot: the service ends without it")
            return
        self.failures += 1
        self._retry_s = min(
            max(FIRST_RETRY_S, 2 * self._retry_s), LONGEST_RETRY_S, self._interval_s
        )
        self._not_before = time.monotonic() + self._retry_s
        if isinstance(error, NatsError | StoreError | OSError):
            self._trouble("no snapshot can be made; trying again later", reason=error)
        else:
            log.error("no snapshot can be made; trying again later", exc_info=error)


def in_older_half(info: SnapshotInfo, stream: StreamInfo, now_ns: int) -> bool:
    """Whether the stream, by its limits of number, size and age or by what it has removed already,
    is half way to removing what a snapshot needs: the messages behind its position."""
    behind = stream.last_seq - info.sequence
    most = {name: int(stream.config.get(name) or 0) for name in ("max_msgs", "max_bytes")}
    age_ns = int(stream.config.get("max_age") or 0)
    behind_bytes = behind * stream.size // max(1, stream.messages)
    return (
        (most["max_msgs"] > 0 and 2 * behind > most["max_msgs"])
        or (most["max_bytes"] > 0 and 2 * behind_bytes > most["max_bytes"])
        or (age_ns > 0 and 2 * (now_ns - info.timestamp_ns) > age_ns and info.sequence > 0)
        or (stream.first_seq > 1 and 2 * info.sequence < stream.first_seq + stream.last_seq)
    )
