"""The command ``run``: one service in one process, from its first log line to its exit code."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time

from alarmdigest import __version__
from alarmdigest.nats.embedded.discovery import EmbeddedServerError, choose_server, server_name_at
from alarmdigest.nats.embedded.server import NAME_PREFIX, EmbeddedServer
from alarmdigest.nats.errors import UrlError
from alarmdigest.observability.health import (
    degradations,
    liveness_failures,
    readiness_failures,
)
from alarmdigest.observability.http import HttpServer
from alarmdigest.observability.nats_service_api import ServiceApi
from alarmdigest.observability.other_instances import OtherInstances
from alarmdigest.observability.way import Way
from alarmdigest.pipeline.service import Service
from alarmdigest.pipeline.startup import NotReachable
from alarmdigest.process import thread_dump
from alarmdigest.process.reload import Reloader
from alarmdigest.process.signals import Signals
from alarmdigest.process.supervisor import Supervisor
from alarmdigest.runtime import exit_codes, log_writer
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.runtime.resource_limits import exhausted_resource, too_few_files
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.settings.contradictions import unheeded
from alarmdigest.store import StoreAway, StoreError, open_store

log = logging.getLogger(__name__)

LOCAL_HOST, LOCAL_PORT = "127.0.0.1", 4222
WATCH_INTERVAL_S = 0.1
# How long a second signal waits for the log.
FINAL_LOG_FLUSH_S = 0.5
EMBEDDED_RESTARTS = 3
RESTARTS_FORGOTTEN_AFTER_S = 3600.0
# A thread that needs the GIL gets it after this at the latest. The interpreter's 5 ms would be
# most of a digest's latency while events pour in.
SWITCH_INTERVAL_S = 0.0005


class Runner:
    """Starts a service and its embedded server, watches both, ends both."""

    def __init__(self, settings: Settings, reloader: Reloader) -> None:
        self._settings = settings
        self._reloader = reloader
        self._service: Service | None = None
        self._embedded: EmbeddedServer | None = None
        self._restarts = 0
        self._restarted_at = 0.0
        self._signals = Signals(stop_at_once=self._stop_at_once, hung_up=self._on_hangup)
        self._supervisor = Supervisor(os.environ)
        self._in_terminal = os.isatty(log_writer.STDERR)
        self._trouble = LimitedLog(log, logging.ERROR)

    def run(self) -> int:
        """The exit code."""
        code = self._run_in_order()
        if self._service is not None and self._service.uses_store:
            # Cassandra's driver has threads that may wait for the store, and the interpreter waits
            # for those.
            log_writer.end(FINAL_LOG_FLUSH_S)
            os._exit(code)
        return code

    def _run_in_order(self) -> int:
        os.umask(0o077)  # what we write are users' alarms
        self._signals.start()
        thread_dump.write_in_a_crash()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        log.info(
            "alarmdigest %s%s",
            __version__,
            Fields(pid=os.getpid(), workers=self._settings.workers),
        )
        for warning in unheeded(self._settings):
            log.warning("%s", warning)
        try:
            if problem := too_few_files():
                log.critical("%s", problem)
                return exit_codes.INTERNAL_ERROR
            return self._run()
        except (SettingsError, UrlError) as error:
            for problem in error.args:
                log.error("%s", problem)
            return exit_codes.USAGE
        except StoreAway as error:
            if self._signals.stop_asked:
                log.info("stopped before there was a store: %s", error)
                return exit_codes.CLEAN
            log.error("%s", error)
            return exit_codes.STORE_UNUSABLE
        except StoreError as error:
            log.error("%s", error)
            return exit_codes.STORE_UNUSABLE
        except (NotReachable, EmbeddedServerError) as error:
            log.error("%s", error)
            return exit_codes.NATS_NOT_REACHABLE
        finally:
            if self._embedded is not None:
                self._embedded.stop()
            self._signals.end()

    def _run(self) -> int:
        # Before anything is started: it tells whether another service is here already.
        store = open_store(self._settings, lambda: not self._signals.stop_asked)
        service: Service | None = None
        try:
            service = self._service = Service(
                self._settings,
                self._find_servers(),
                store,
                go_on=lambda: not self._signals.stop_asked,
            )
            return self._run_with(service)
        finally:
            # A checkpointer that did not end in time may be in the middle of a write, which must
            # not be pulled away under it. The end of the process gives up the store as well.
            if service is None:
                store.close()
            elif not service.uses_store:
                service.store.close()

    def _run_with(self, service: Service) -> int:
        others, way = OtherInstances(), Way(self._settings)
        monitor = self._open_http(service, others, way)
        api: ServiceApi | None = None
        try:
            service.start()
            if not self._signals.stop_asked and service.failure is None:
                log.info(
                    "ready%s%s",
                    Fields(
                        mode=service.mode,
                        store=self._settings.store,
                        workers=self._settings.workers,
                    ),
                    service.whereabouts,
                )
                self._supervisor.ready()
                # What is there now stays. Else each full collection looks at all of it, which holds
                # up every thread for a tenth of a second; Cassandra's driver causes some.
                gc.freeze()
                if not self._settings.no_service_api:
                    api = ServiceApi(service, service.reconnectors.service_api, others, way)
                    api.start()
            return self._watch(service)
        finally:
            if api is not None:
                api.stop()
            if monitor is not None:
                monitor.stop()

    def _find_servers(self) -> list[str]:
        if self._settings.server:
            return list(self._settings.server)
        if self._settings.nats_server:
            try:
                choose_server(self._settings.nats_server)
            except EmbeddedServerError as error:
                raise SettingsError(f"--nats-server: {error}") from error
        url = f"nats://{LOCAL_HOST}:{LOCAL_PORT}"
        name = server_name_at(LOCAL_HOST, LOCAL_PORT, timeout=2.0)
        embedded = EmbeddedServer(
            self._settings.data_dir, port=LOCAL_PORT, binary=self._settings.nats_server or None
        )
        if name is not None and name != embedded.server_name:
            log.info("no server given: using the one found at %s%s", url, Fields(name=name))
            if name.startswith(NAME_PREFIX):
                log.warning(
                    "that server belongs to the alarmdigest of another data directory: "
                    "if it still runs, both of us answer every request"
                )
            return [url]
        self._embedded = embedded  # before it starts: whatever ends us now must end it
        embedded.start()
        log.info(
            "no server given: %s at %s%s",
            "going on with our own embedded one" if embedded.adopted else "started an embedded one",
            url,
            Fields(
                data_dir=self._settings.data_dir,
                nats_server=embedded.program.path,
                version=embedded.program.version_text,
            ),
        )
        return [url]

    def _open_http(self, service: Service, others: OtherInstances, way: Way) -> HttpServer | None:
        if self._settings.http is None:
            return None
        monitor = HttpServer(service, others, way, self._settings.http)
        monitor.start()
        return monitor

    def _watch(self, service: Service) -> int:
        while service.failure is None:
            time.sleep(WATCH_INTERVAL_S)
            self._supervisor.look_at(
                lambda: readiness_failures(service), lambda: liveness_failures(service)
            )
            self._reloader.reload_if_asked(service)
            if self._signals.stop_asked:
                self._supervisor.stopping()
                log.info("draining%s", Fields(at_most_seconds=self._settings.drain_timeout.seconds))
                if service.drain():
                    log.info("stopped: everything that arrived was worked off")
                    return exit_codes.CLEAN
                if service.failure is None:
                    self._tell_what_is_left("the drain timed out")
                    return exit_codes.DRAIN_TIMED_OUT
            elif self._embedded is not None:
                try:
                    self._look_after(self._embedded)
                except OSError as error:  # no descriptor left, say: another look in a moment
                    self._trouble("cannot look after the embedded server", reason=error)
        thread, cause = service.failure
        if isinstance(cause, SettingsError):
            log.error("%s", cause)
            return exit_codes.USAGE
        if isinstance(cause, StoreError):
            log.critical("%s", cause)
            return exit_codes.STORE_UNUSABLE
        if (why := exhausted_resource(cause)) is not None:
            log.critical("thread %s died, the service cannot go on: %s", thread, why)
        else:
            log.critical("thread %s died, the service cannot go on", thread, exc_info=cause)
        return exit_codes.INTERNAL_ERROR

    def _tell_what_is_left(self, why: str) -> None:
        service = self._service
        if service is None or not service.mode:
            log.warning("%s; nothing was read yet", why)
            return
        log.error(
            "%s%s; what is left is %s; reasons: %s",
            why,
            Fields(
                backlog_bytes=service.listener.backlog_bytes if service.listener else 0,
                unconfirmed_bytes=(service.publisher.window.bytes if service.publisher else 0),
            ),
            "read again by the next start" if service.mode == "stream" else "lost",
            "; ".join(degradations(service)) or "none, it only took too long",
        )

    def _look_after(self, embedded: EmbeddedServer) -> None:
        if not embedded.alive():
            self._restart_embedded(embedded)
        elif embedded.needs_restart():
            log.error("the embedded server's disk was full and has room: starting it anew")
            try:
                embedded.restart()
            except EmbeddedServerError as error:  # found dead at the next look
                log.error("the embedded server did not come back: %s", error)

    def _restart_embedded(self, embedded: EmbeddedServer) -> None:
        if time.monotonic() - self._restarted_at > RESTARTS_FORGOTTEN_AFTER_S:
            self._restarts = 0
        if self._restarts == EMBEDDED_RESTARTS:
            raise NotReachable(f"the embedded server died again after {EMBEDDED_RESTARTS} restarts")
        self._restarts += 1
        self._restarted_at = time.monotonic()
        log.error("the embedded server died: restart %d of %d", self._restarts, EMBEDDED_RESTARTS)
        try:
            embedded.restart()
        except EmbeddedServerError as error:  # found dead again at the next look
            log.error("the embedded server did not come back: %s", error)

    # -- in the thread that reads the signals ----------------------------------------------------

    def _stop_at_once(self, name: str) -> None:
        try:
            self._tell_what_is_left(f"second {name}: stopping at once")
            if self._embedded is not None:
                self._embedded.terminate()
            log_writer.end(FINAL_LOG_FLUSH_S)
        finally:
            os._exit(exit_codes.DRAIN_TIMED_OUT)

    def _on_hangup(self) -> None:
        # Somebody's wish, or the news that our terminal was closed: then it is gone by now. A shell
        # and the kernel both send that news.
        if self._in_terminal and not os.isatty(log_writer.STDERR):
            self._signals.ask_to_stop()
        else:
            self._reloader.ask()
