"""Before the threads start: what can this server do, and does it fit what the store holds? Then the
store becomes ours (LMDB's is since it was opened), and is filled from a snapshot if it is empty."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from alarmdigest._ext import timestamps
from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamError, JetStreamOff, NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.permanent_errors import is_permanent
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.group_checks import (
    check_group,
    check_no_group,
    check_other_groups,
    content_of,
)
from alarmdigest.pipeline.server_checks import (
    content_settings,
    ready_streams,
    split_bytes,
    version_problem,
)
from alarmdigest.pipeline.snapshot_restore import NotToGoOn
from alarmdigest.replication.group_start import GroupStart
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.state.position import StreamPosition
from alarmdigest.store.base import Checkpoint, Store

log = logging.getLogger(__name__)


# Has an empty store filled from a snapshot, if there is one; the store's checkpoint then.
FillStore: TypeAlias = Callable[[dict[str, int]], Checkpoint | None]


class NotReachable(RuntimeError):
    """No NATS server in time, or none that can do what is asked for."""


def not_reachable(reconnector: Reconnector) -> NotReachable:
    """What to raise when there was no usable server in time."""
    if reconnector.connections:
        return NotReachable(
            f"NATS is there, but does not do what is needed: {reconnector.last_error}"
        )
    return NotReachable(f"cannot connect to NATS: {reconnector.last_error}")


@dataclass(frozen=True, slots=True)
class StartPlan:
    """What ``prepare_server`` has found out. Sizes in bytes.

    ``replay_end`` is the last message of the input stream: an earlier run has read none after it.
    None in core mode.
    ``content_settings`` are those that decide what digests hold.
    ``group_start`` says how the state of a group came about.
    """

    mode: str
    split_bytes: int
    replay_end: StreamPosition | None
    content_settings: dict[str, int]
    group_start: GroupStart = GroupStart()


def prepare_server(
    reconnector: Reconnector,
    settings: Settings,
    store: Store,
    *,
    fill_store: FillStore | None = None,
    go_on: Callable[[], bool],
) -> StartPlan | None:
    """Connect, decide the mode, make the streams; None if ``go_on()`` was false before it was done.

    The store is claimed once the settings are known to fit it. Where it is empty after that,
    ``fill_store`` (``Service._fill_store``) is asked to fill it from a snapshot, with the settings
    that decide what digests hold, and for the checkpoint that it has then; it may put another store
    in the place of this one. Raises SettingsError and NotReachable for what will not mend itself,
    and StoreError.
    """
    while True:
        connection = reconnector.connect_with_backoff(go_on)
        if connection is None:
            return None
        try:
            return _prepare(connection, settings, store, fill_store)
        except NotToGoOn:
            return None
        except JetStreamError as error:
            if is_permanent(error):
                raise SettingsError(str(error)) from error
            _try_again(reconnector, error)
        except NatsError as error:
            _try_again(reconnector, error)
        finally:
            connection.close()


def _try_again(reconnector: Reconnector, error: NatsError) -> None:
    reconnector.last_error = str(error)
    log.warning("the server does not do what we need, trying again: %s", error)


def _prepare(
    connection: Connection,
    settings: Settings,
    store: Store,
    fill_store: FillStore | None,
) -> StartPlan:
    last = store.last
    check_stored(settings, last)
    _check_version(connection, "core", asked_for=settings.mode)
    mode = "core"
    inputs = digests = replay_end = None  # `inputs` is the stream of all input
    # A user who is to use plain subscriptions need not be allowed a single request of JetStream's.
    if settings.mode != "core":
        jetstream = JetStream(connection, domain=settings.js_domain)
        mode = _mode(jetstream, settings, last, connection.url)
        if mode == "stream":
            _check_version(connection, mode, asked_for=settings.mode)
            if settings.group:
                _check_version(connection, "group", asked_for="group")
                check_other_groups(jetstream, settings)
            streams = ready_streams(jetstream, settings)
            inputs, digests = streams["alarms"], streams["digests"]
            if not settings.group:
                check_no_group(jetstream, settings)
    if mode == "core":
        _check_clock(settings, last)
    content = content_settings(settings, split_bytes(settings, connection, digests))
    store.claim()
    last = store.last
    check_stored(settings, last)
    if inputs is not None:
        # Only now: whoever had the store (in Cassandra) may have read on until it was ours.
        inputs = jetstream.stream_info(inputs.name) or inputs
        replay_end = StreamPosition(
            inputs.name, inputs.created, inputs.last_seq, inputs.last_ts or 0
        )
    if last is None and fill_store is not None and inputs is not None:
        last = fill_store(content)  # from here on `store` may be closed
    group_start = GroupStart()
    if settings.group and inputs is not None and digests is not None:
        in_common = content_of(settings, content)
        group_start = check_group(jetstream, settings, in_common, last, inputs, digests)
    if last is not None and last.position is not None:
        _warn_of_changed_settings(
            last, content, replay_end.sequence if replay_end is not None else 0
        )
    return StartPlan(mode, content["split_bytes"], replay_end, content, group_start)


def _check_version(connection: Connection, mode: str, *, asked_for: str) -> None:
    if problem := version_problem(connection, mode, asked_for=asked_for):
        raise SettingsError(problem)


def check_stored(settings: Settings, last: Checkpoint | None) -> None:
    """Raises SettingsError for a store that goes on somewhere else."""
    position = last.position if last is not None else None
    if position is None:
        return
    option = "--cassandra-keyspace" if settings.store == "cassandra" else "--data-dir"
    if position.stream != settings.events_stream:
        raise SettingsError(
            f"the store in {settings.place_of_state} was fed by the stream {position.stream}, not "
            f"by {settings.events_stream}: choose another {option}, or that stream"
        )
    if settings.mode == "core":
        raise SettingsError(
            f"--mode core: the store in {settings.place_of_state} goes on at a place in the stream "
            f"{position.stream}; use --mode stream, or another {option}"
        )


def _check_clock(settings: Settings, last: Checkpoint | None) -> None:
    """Raises SettingsError where the store has seen a later time than ours, by over a day: we would
    stay there until our clock has come so far."""
    now_ns = time.time_ns()
    if last is None or settings.accept_clock_step or last.arrival_ns <= now_ns + DAY_NS:
        return
    raise SettingsError(
        f"our clock says {timestamps.to_text(now_ns)}, and the store in {settings.place_of_state} "
        f"has seen {timestamps.to_text(last.arrival_ns)}: one of both is wrong. Set our clock "
        "right; if it is right, start once with --accept-clock-step"
    )


def _mode(jetstream: JetStream, settings: Settings, last: Checkpoint | None, url: str) -> str:
    if jetstream.available():
        return "stream"
    if settings.js_domain:
        # Who names a domain wants a stream; and from a leaf its hub may be cut off for a moment.
        raise JetStreamOff(
            f"nobody answers for the JetStream domain {settings.js_domain}: is this its name, and "
            "is its server connected to this one? (--mode core does without)"
        )
    position = last.position if last is not None else None
    if settings.group or settings.mode == "stream" or position is not None:
        wanted = "--group" if settings.group else "--mode stream"
        if position is not None:
            wanted = f"the store in {settings.place_of_state}"
        raise NotReachable(
            f"{url} (or our account there) has no JetStream, which {wanted} needs: turn it on "
            "there (jetstream {} in the server's configuration), or say --mode core"
        )
    log.warning(
        "no JetStream on %s: core mode; what is published while this service is away is lost to "
        "it; --mode core says that this is wanted",
        url,
    )
    return "core"


def _warn_of_changed_settings(last: Checkpoint, content: dict[str, int], replay_end: int) -> None:
    """A replay under other settings makes other digests than those that are published already."""
    assert last.position is not None
    changed = sorted(name for name in content if last.settings.get(name) != content[name])
    if changed and replay_end > last.position.sequence:
        log.warning(
            "changed since the last checkpoint, with %d messages to read again: %s; a digest that "
            "was published after that checkpoint may be published once more with other content",
            replay_end - last.position.sequence,
            ", ".join(changed),
        )
