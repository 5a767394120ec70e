"""The status of a service as JSON, for the page and the command ``status``.

It says what kind and how much, never whose: no ids of users or alarms, no contents, no secrets.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

from alarmdigest import __version__
from alarmdigest._ext import timestamps
from alarmdigest.observability.disk import free_bytes, store_bytes
from alarmdigest.observability.group_status import group_status
from alarmdigest.observability.health import liveness_failures, readiness_failures
from alarmdigest.observability.history import RATES, STEP_S, History, Sample, rates_between
from alarmdigest.observability.identity import connections, identity
from alarmdigest.observability.incident_recorder import IncidentRecorder
from alarmdigest.observability.losses import json_key, losses
from alarmdigest.observability.other_instances import EFFECTS, OtherInstances
from alarmdigest.observability.snapshots import snapshot_status
from alarmdigest.observability.stream_changes import stream_changes
from alarmdigest.observability.way import Way
from alarmdigest.pipeline.service import Service


class Status:
    """Of one service, with what its counters were in the last minutes."""

    def __init__(self, service: Service, others: OtherInstances, way: Way) -> None:
        self._service = service
        self._others = others
        self._way = way
        self._history = History()
        self._incidents = IncidentRecorder(service)
        self._started = time.monotonic()
        self._digests = 0
        self._digest_at_ns: int | None = None

    def remember(self) -> None:
        """Take a sample if it is time for one. Call it every second."""
        self._incidents.check()
        self._notice_digests()
        if self._history.wants_one(time.monotonic()):
            self._history.add(self._sample())

    def _notice_digests(self) -> None:
        """Note when the last digest was confirmed, up to a second late."""
        publisher = self._service.publisher
        if publisher is not None and publisher.confirmer.digests != self._digests:
            self._digests = publisher.confirmer.digests
            self._digest_at_ns = time.time_ns()

    def look(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON has it. Ages and durations in seconds."""
        self._notice_digests()
        service, settings, now = self._service, self._service.settings, self._sample()
        ill, reasons = liveness_failures(service), readiness_failures(service)
        watcher = service.stream_watcher
        in_stream_mode = service.mode == "stream"
        return {
            "state": "ill" if ill else "not ready" if reasons else "ready",
            "reasons": reasons,
            "version": __version__,
            "mode": service.mode or None,
            **identity(settings),
            "store": settings.store,
            "store_place": settings.place_of_state,
            "streams": [settings.events_stream, settings.digests_stream, settings.rejected_stream]
            if in_stream_mode
            else [],
            "connections": connections(service),
            "stream_states": watcher.states() if watcher is not None else [],
            "uptime_seconds": round(now.at - self._started, 1),
            "rates": self._history.rates(now),
            "totals": {name: getattr(now, name) for name in RATES},
            "behind": self._behind(),
            "position": self._position(),
            "output": self._output(),
            "alarms": self._alarms(),
            "shows_users": settings.show_users,
            "trace_seconds_left": service.trace.seconds_left,
            "disk": {
                "store_bytes": store_bytes(settings.data_dir),
                "free_bytes": free_bytes(settings.data_dir),
            },
            "way": self._way.look(),
            "group": group_status(service),
            "other_instances": {one: self._others.count(one) for one in EFFECTS},
            "arrival": self._arrival(),
            "rejected": self._rejected(),
            "workers": [
                {
                    "name": worker.name,
                    "queue": worker.queue.qsize(),
                    "alarms": worker.book.alarm_count,
                    "users": worker.book.user_count,
                }
                for worker in service.workers
            ],
            "checkpoint": self._checkpoint(),
            "snapshots": snapshot_status(service),
            "losses": {json_key(place): count for place, count in losses(service).items()},
            "stream_changes": stream_changes(service),
            "happened": self._incidents.newest(),
            "history": self._minutes(),
        }

    def _sample(self) -> Sample:
        listener, publisher = self._service.listener, self._service.publisher
        return Sample(
            at=time.monotonic(),
            events=listener.router.events if listener is not None else 0,
            requests=listener.router.requests if listener is not None else 0,
            digests=publisher.confirmer.digests if publisher is not None else 0,
            behind=listener.at_least_behind if listener is not None else 0,
        )

    def _behind(self) -> dict[str, Any]:
        """None where nobody knows: in core mode, and while the stream or its consumer is silent."""
        listener = self._service.listener
        messages: int | None = None
        seconds: float | None = None
        if listener is not None and (messages := listener.behind) is not None:
            seconds = 0.0
            # By two clocks, the server's and ours: not below 0, and no better than they agree.
            if messages and listener.router.timestamp_ns:
                seconds = max(0.0, round(time.time() - listener.router.timestamp_ns / 1e9, 1))
        return {
            "messages": messages,
            "seconds": seconds,
            "backlog_bytes": listener.backlog_bytes if listener is not None else 0,
        }

    def _position(self) -> dict[str, Any] | None:
        """How far the input stream has been read; None in core mode."""
        listener = self._service.listener
        if listener is None or self._service.mode != "stream":
            return None
        router = listener.router
        return {
            "sequence": router.sequence,
            "last_sequence": router.sequence + listener.at_least_behind,
            "stored_at": timestamps.to_text(router.timestamp_ns) if router.timestamp_ns else None,
        }

    def _output(self) -> dict[str, Any] | None:
        publisher = self._service.publisher
        if publisher is None:
            return None
        window, last = publisher.window, self._digest_at_ns
        return {
            "blocked_reason": publisher.blocked_reason,
            "last_digest_at": timestamps.to_text(last) if last is not None else None,
            "unconfirmed_bytes": window.bytes,
            "oldest_unconfirmed_seconds": round(window.oldest_unconfirmed_s, 3),
            "queued_bytes": publisher.queue.qsize(),
            "resent": publisher.confirmer.resent,
        }

    def _alarms(self) -> dict[str, int]:
        books = [worker.book for worker in self._service.workers]
        return {
            "held": sum(book.alarm_count for book in books),
            "active": sum(book.active_count for book in books),
            "due": sum(book.due_count for book in books),
            "users": sum(book.user_count for book in books),
            "bytes": sum(book.held_bytes for book in books),
        }

    def _arrival(self) -> dict[str, Any]:
        """The clock that retention and skew go by."""
        listener = self._service.listener
        if listener is None or not (arrival_ns := listener.router.arrival_ns):
            return {"at": None, "ahead_seconds": None, "steps": 0}
        return {
            "at": timestamps.to_text(arrival_ns),
            "ahead_seconds": round((arrival_ns - time.time_ns()) / 1e9, 1),
            "steps": listener.source.arrival_steps + listener.router.arrival_steps,
        }

    def _rejected(self) -> dict[str, Any]:
        rejections = self._service.rejections
        return {
            "by_reason": dict(rejections.by_reason),
            "last": [
                {"at": timestamps.to_text(at_ns), "reason": reason, "bytes": size}
                for at_ns, reason, size in reversed(tuple(rejections.last))
            ],
        }

    def _checkpoint(self) -> dict[str, Any] | None:
        checkpointer = self._service.checkpointer
        if checkpointer is None:
            return None
        last = checkpointer.store.last
        return {
            "number": last.number if last is not None else None,
            "written": checkpointer.written,
            "failures": checkpointer.failures,
            "age_seconds": round(time.monotonic() - checkpointer.completed_at, 1),
            "seconds": round(checkpointer.write_seconds, 4),
            "bytes": checkpointer.rows_bytes,
            "unfolded_bytes": checkpointer.store.unfolded_bytes,
            "rewritten": checkpointer.store.rewritten,
        }

    def _minutes(self) -> dict[str, Any]:
        """What lay between two samples each, the oldest first."""
        samples = self._history.samples()
        pairs = list(pairwise(samples))
        rates = [rates_between(before, after) for before, after in pairs]
        return {
            "step_seconds": STEP_S,
            **{name: [rate[name] for rate in rates] for name in RATES},
            "behind": [after.behind for _before, after in pairs],
        }
