"""The command ``bridge``: one bridge in one process, from its first log line to its exit code."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector

from alarmdigest import __version__
from alarmdigest.connect.bridge.authentication import Authentication, tls_context
from alarmdigest.connect.bridge.connections import connections_with
from alarmdigest.connect.bridge.metrics import BridgeCollector
from alarmdigest.connect.bridge.publisher import Publisher
from alarmdigest.connect.bridge.receiver import Receiver
from alarmdigest.connect.bridge.rules import Rules, needs_restart, read_rules
from alarmdigest.connect.bridge.senders import SENDERS
from alarmdigest.connect.pages import Pages
from alarmdigest.connect.process_runner import connect_for
from alarmdigest.connect.stats_answers import StatsAnswers
from alarmdigest.http.server import HttpThread, listen
from alarmdigest.process import thread_dump
from alarmdigest.process.signals import Signals
from alarmdigest.process.supervisor import Supervisor
from alarmdigest.runtime import exit_codes, log_writer
from alarmdigest.runtime.logs import Fields
from alarmdigest.runtime.service_thread import STUCK_AFTER_S
from alarmdigest.settings import HttpAddress, Settings, SettingsError
from alarmdigest.settings.readers import http_address
from alarmdigest.wire.service_api import STAGES

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.1
GC_THRESHOLD = 50_000
FINAL_LOG_FLUSH_S = 0.5
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Of the drain, what the HTTP side gets to finish its answers.
HTTP_SHARE = 0.5


class BridgeRunner:
    """Starts the publisher and the HTTP side, watches both, and ends them in this order: no new
    requests, the answers of those that are there, what is in the queue."""

    def __init__(self, settings: Settings, read_rules: Callable[[], Rules]) -> None:
        """Raises SettingsError for rules that cannot be used."""
        self._settings = settings
        self._read_rules = read_rules
        self._rules = read_rules()
        self._address = _address(self._rules.http.listen)
        self._failure: tuple[str, BaseException] | None = None
        self._reload_asked = threading.Event()
        self._signals = Signals(stop_at_once=self._stop_at_once, hung_up=self._reload_asked.set)
        self._supervisor = Supervisor(os.environ)
        self._authentication = Authentication(self._rules.http)
        self._tls = tls_context(self._rules.http)
        self._publisher = Publisher(
            settings,
            self._rules,
            connect_for(settings, "alarmdigest-bridge"),
            self._on_failure,
        )
        self._receiver = Receiver(self._rules, self._authentication, self._publisher)
        registry = CollectorRegistry()
        registry.register(BridgeCollector(self._publisher, self._receiver))
        ProcessCollector(registry=registry)
        self._receiver.pages = Pages(
            registry,
            liveness=self._liveness_failures,
            readiness=self._receiver.readiness_failures,
            others=SENDERS,
        )
        stage = STAGES["bridge"]
        self._answers = StatsAnswers(
            stage, settings, connect_for(settings, f"{stage.name}-micro"), self._receiver.counters
        )

    def run(self) -> int:
        """The exit code. Raises SettingsError when the address cannot be had."""
        os.umask(0o077)
        self._signals.start()
        thread_dump.write_in_a_crash()
        log.info("alarmdigest bridge %s%s", __version__, Fields(pid=os.getpid()))
        # Alerts live until their answer; looking at each of them in between finds no garbage.
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        http = self._http()
        self._publisher.start()
        http.start()
        scheme = "https" if self._tls else "http"
        log.info("http listening%s", Fields(on=self._address.url.replace("http", scheme, 1)))
        if not self._settings.no_service_api:
            self._answers.start()
        try:
            return self._watch(http)
        finally:
            self._answers.stop()
            self._signals.end()

    def _http(self) -> HttpThread:
        host, port, _may_move = self._address
        try:
            listening = listen(host, port)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another with --listen"
            ) from error
        self._address = HttpAddress(host, listening.getsockname()[1])
        self._warn_if_open(self._authentication)
        drain_s = self._settings.drain_timeout.seconds
        request_s = self._rules.http.timeout.seconds
        return HttpThread(
            self._receiver,
            listening,
            protocol=connections_with(
                request_s, self._rules.http.answer_timeout.seconds + request_s
            ),
            tls=self._tls,
            stop_timeout_s=max(1, round(drain_s * HTTP_SHARE)),
        )

    def _watch(self, http: HttpThread) -> int:
        publisher, ready = self._publisher, False
        deadline = time.monotonic() + self._settings.connect_timeout.seconds
        while self._failure is None and not self._signals.stop_asked:
            time.sleep(WATCH_INTERVAL_S)
            if not ready and not publisher.blocked:
                ready = True
                log.info("ready%s", Fields(stream=self._settings.events_stream))
                self._supervisor.ready()
            if publisher.reconnector.connections == 0 and time.monotonic() > deadline:
                log.error("NATS is not reachable: %s", publisher.reconnector.last_error)
                return exit_codes.NATS_NOT_REACHABLE
            self._supervisor.look_at(self._receiver.readiness_failures, self._liveness_failures)
            if self._reload_asked.is_set():
                self._reload_asked.clear()
                self._reload()
            if not http.is_alive:
                log.critical("thread http died, the bridge cannot go on")
                return exit_codes.INTERNAL_ERROR
        if self._failure is not None:
            thread, cause = self._failure
            log.critical("thread %s died, the bridge cannot go on", thread, exc_info=cause)
            return exit_codes.INTERNAL_ERROR
        return self._drain(http)

    def _drain(self, http: HttpThread) -> int:
        self._supervisor.stopping()
        drain_s = self._settings.drain_timeout.seconds
        log.info("draining%s", Fields(at_most_seconds=drain_s))
        deadline = time.monotonic() + drain_s
        self._receiver.stopping = True
        http.stop()
        unanswered = self._receiver.unconfirmed
        self._publisher.stop()
        self._publisher.join(max(0.0, deadline - time.monotonic()))
        if self._publisher.is_alive() or http.is_alive or unanswered:
            log.error("the drain timed out; what was not answered is sent again")
            return exit_codes.DRAIN_TIMED_OUT
        log.info("stopped: everything that was taken is confirmed")
        return exit_codes.CLEAN

    def _liveness_failures(self) -> list[str]:
        if self._publisher.stuck:
            return [f"thread publisher is stuck: no sign of life for {STUCK_AFTER_S:g} s"]
        return []

    def _reload(self) -> None:
        """Rules, tokens and the certificate; the rest counts from the next start on."""
        try:
            rules = self._read_rules()
            # What counts from the next start on stays as it is until then.
            kept = replace(
                rules.http,
                tls_client_ca=self._rules.http.tls_client_ca,
                answer_timeout=self._rules.http.answer_timeout,
            )
            authentication = Authentication(kept)
            tls_context(rules.http)  # whether it can be used: the one in use is not spoilt
            if self._tls is not None and rules.http.tls_cert:
                self._tls.load_cert_chain(rules.http.tls_cert, rules.http.tls_key)
        except SettingsError as error:
            for problem in error.args:
                log.error("not reloaded: %s", problem)
            return
        except OSError as error:  # changed between the two looks at it
            log.error("not reloaded: %s", error)
            return
        if names := needs_restart(self._rules, rules):
            log.warning("counts from the next start on: %s", ", ".join(names))
        used = replace(rules, http=kept, details=self._rules.details)
        self._receiver.use(used, authentication)
        self._warn_if_open(authentication)
        log.info("reloaded%s", Fields(file=rules.file or "none"))

    def _warn_if_open(self, authentication: Authentication) -> None:
        host, port = self._address[:2]
        if authentication.is_open and host not in LOOPBACK:
            log.warning(
                "everybody who reaches %s:%d may send alerts: see [http] bearer_file", host, port
            )

    def _on_failure(self, thread: threading.Thread, error: BaseException) -> None:
        self._failure = thread.name, error

    def _stop_at_once(self, name: str) -> None:
        try:
            log.error("second %s: stopping at once; what was not answered is sent again", name)
            log_writer.end(FINAL_LOG_FLUSH_S)
        finally:
            os._exit(exit_codes.DRAIN_TIMED_OUT)


def _address(text: str) -> HttpAddress:
    try:
        if (found := http_address(text)) is not None:
            return found
    except ValueError:
        pass
    raise SettingsError(f"[http] listen: {text!r} is no HOST:PORT")


def rules_reader(file: Path | None, listen_on: str | None) -> Callable[[], Rules]:
    """Reads the rules, now and at each reload; ``listen_on`` goes before the file's."""

    def read() -> Rules:
        rules = read_rules(file)
        return replace(rules, http=replace(rules.http, listen=listen_on)) if listen_on else rules

    return read
