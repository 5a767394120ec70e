"""One process that connects the service to something, from its first log line to its exit code."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from alarmdigest import __version__
from alarmdigest.connect.pages import Pages
from alarmdigest.connect.stats_answers import StatsAnswers
from alarmdigest.http.server import HttpThread, listen
from alarmdigest.http.short import ShortConnection
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.url import LOCAL_SERVER
from alarmdigest.process import thread_dump
from alarmdigest.process.signals import Signals
from alarmdigest.process.supervisor import Supervisor
from alarmdigest.runtime import exit_codes, log_writer
from alarmdigest.runtime.logs import Fields
from alarmdigest.settings import HttpAddress, Settings, SettingsError
from alarmdigest.settings.readers import http_address
from alarmdigest.wire.service_api import STAGES

log = logging.getLogger(__name__)

NO_CONNECTION = "there is no connection to NATS"
WATCH_INTERVAL_S = 0.1
FINAL_LOG_FLUSH_S = 0.5
# What lives for long, such as the users who wait, is no garbage: looking at it finds none.
GC_THRESHOLD = 50_000


class Work(Protocol):
    """What the process is for, in threads of its own."""

    @property
    def blocked(self) -> str:
        """Why nothing can be done now; empty while it can."""

    @property
    def reconnector(self) -> Reconnector: ...

    def start(self) -> None: ...

    def stop(self) -> None:
        """Finish what is under way, and end. Does not wait."""

    def join(self, timeout: float) -> None: ...

    def is_alive(self) -> bool: ...

    def liveness_failures(self) -> list[str]: ...

    def degradations(self) -> list[str]:
        """Sentences about what is wrong though work goes on, such as one that does not act."""

    def counters(self) -> dict[str, int]:
        """Those of its stage, for the NATS service API. Called by another thread."""

    def reload(self) -> None:
        """Files again, as far as they count at once. Raises SettingsError: all is as before."""


class ProcessRunner:
    """Starts the work and its HTTP page, watches both, ends them, and gives the exit code."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        listen_on: str,
        make_work: Callable[[Callable[[threading.Thread, BaseException], None]], Work],
        make_collector: Callable[[Work], Collector],
    ) -> None:
        """``name`` is the key of a stage. ``listen_on`` is HOST:PORT, or "off". ``make_work`` gets
        what to call when a thread dies. Raises SettingsError."""
        self._name = name
        self._settings = settings
        self._address = _address(listen_on)
        self._failure: tuple[str, BaseException] | None = None
        self._reload_asked = threading.Event()
        self._signals = Signals(stop_at_once=self._stop_at_once, hung_up=self._reload_asked.set)
        self._supervisor = Supervisor(os.environ)
        self._work = make_work(self._on_failure)
        self._registry = CollectorRegistry()
        self._registry.register(make_collector(self._work))
        ProcessCollector(registry=self._registry)
        stage = STAGES[name]
        self._answers = StatsAnswers(
            stage, settings, connect_for(settings, f"{stage.name}-micro"), self._work.counters
        )

    def run(self) -> int:
        """The exit code. Raises SettingsError when the address cannot be had."""
        os.umask(0o077)
        self._signals.start()
        thread_dump.write_in_a_crash()
        log.info("alarmdigest %s %s%s", self._name, __version__, Fields(pid=os.getpid()))
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        http = self._http()
        self._work.start()
        if http is not None:
            http.start()
            log.info("http listening%s", Fields(on=self._address.url if self._address else ""))
        if not self._settings.no_service_api:
            self._answers.start()
        try:
            return self._watch(http)
        finally:
            self._answers.stop()
            self._signals.end()

    def _http(self) -> HttpThread | None:
        if self._address is None:
            return None
        host, port, _may_move = self._address
        try:
            listening = listen(host, port)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another with --listen"
            ) from error
        self._address = HttpAddress(host, listening.getsockname()[1])
        pages = Pages(
            self._registry, liveness=self._work.liveness_failures, readiness=self._not_ready
        )
        return HttpThread(pages, listening, protocol=ShortConnection)

    def _not_ready(self) -> list[str]:
        return [self._work.blocked] if self._work.blocked else []

    def _watch(self, http: HttpThread | None) -> int:
        work, ready = self._work, False
        deadline = time.monotonic() + self._settings.connect_timeout.seconds
        while self._failure is None and not self._signals.stop_asked:
            time.sleep(WATCH_INTERVAL_S)
            if not ready and not work.blocked:
                ready = True
                log.info("ready")
                self._supervisor.ready()
            if work.reconnector.connections == 0 and time.monotonic() > deadline:
                log.error("NATS is not reachable: %s", work.reconnector.last_error)
                return exit_codes.NATS_NOT_REACHABLE
            self._supervisor.look_at(
                lambda: [*self._not_ready(), *work.degradations()], work.liveness_failures
            )
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                self._reload()
            if http is not None and not http.is_alive:
                log.critical("thread http died, we cannot go on")
                return exit_codes.INTERNAL_ERROR
        if self._failure is not None:
            thread, cause = self._failure
            log.critical("thread %s died, we cannot go on", thread, exc_info=cause)
            return exit_codes.INTERNAL_ERROR
        return self._drain(http)

    def _reload(self) -> None:
        try:
            self._work.reload()
        except SettingsError as error:
            for problem in error.args:
                log.error("not reloaded: %s", problem)
        else:
            log.info("reloaded")

    def _drain(self, http: HttpThread | None) -> int:
        """The page ends last: it tells how far the drain is."""
        self._supervisor.stopping()
        drain_s = self._settings.drain_timeout.seconds
        log.info("draining%s", Fields(at_most_seconds=drain_s))
        self._work.stop()
        self._work.join(drain_s)
        timed_out = self._work.is_alive()
        if http is not None:
            http.stop()
        if timed_out:
            log.error("the drain timed out; what was not finished is done again")
            return exit_codes.DRAIN_TIMED_OUT
        log.info("stopped")
        return exit_codes.CLEAN

    def _on_failure(self, thread: threading.Thread, error: BaseException) -> None:
        self._failure = thread.name, error

    def _stop_at_once(self, name: str) -> None:
        try:
            log.error("second %s: stopping at once; what was not finished is done again", name)
            log_writer.end(FINAL_LOG_FLUSH_S)
        finally:
            os._exit(exit_codes.DRAIN_TIMED_OUT)


def connect_for(settings: Settings, name: str) -> Reconnector:
    """Connections of this name, to the settings' servers. Raises UrlError."""
    return Reconnector(
        list(settings.server) or [LOCAL_SERVER],
        name=name,
        login=settings.login,
        ping_interval=settings.ping_interval.seconds,
        attempt_timeout=settings.connect_attempt_timeout.seconds,
    )


def _address(text: str) -> HttpAddress | None:
    try:
        return http_address(text)
    except ValueError:
        raise SettingsError(f"--listen: {text!r} is neither HOST:PORT nor off") from None
