"""The command ``run``: one service in one process, from its first log line to its exit code."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from types import FrameType, TracebackType

from alarmdigest import __version__, exit_codes, stacks
from alarmdigest.logs import Fields, last_words
from alarmdigest.monitor.http import MonitorServer
from alarmdigest.monitor.micro import ServiceApi
from alarmdigest.nats.discovery import EmbeddedServerError, find_server, server_name_at
from alarmdigest.nats.embedded import NAME_PREFIX, EmbeddedServer
from alarmdigest.nats.errors import UrlError
from alarmdigest.reload import Reloader
from alarmdigest.service import Service
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.setup import NotReachable
from alarmdigest.store import StoreError, open_store
from alarmdigest.systemd import Supervisor

log = logging.getLogger(__name__)

LOCAL_HOST, LOCAL_PORT = "127.0.0.1", 4222
WATCH_INTERVAL_S = 0.1
DISK_INTERVAL_S = 2.0
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
        self._embedded: EmbeddedServer | None = None
        self._restarts = 0
        self._restarted_at = 0.0
        self._look_at_disk_at = 0.0
        self._signals = 0
        self._supervisor = Supervisor(os.environ)
        self._in_terminal = os.isatty(sys.stderr.fileno())

    def run(self) -> int:
        """The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        stacks.write_when_asked()
        signal.signal(signal.SIGHUP, self._on_hangup)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        log.info(
            "alarmdigest %s%s",
            __version__,
            Fields(pid=os.getpid(), workers=self._settings.workers),
        )
        try:
            return self._run()
        except (SettingsError, UrlError) as error:
            for problem in error.args:
                log.error("%s", problem)
            return exit_codes.USAGE
        except StoreError as error:
            log.error("%s", error)
            return exit_codes.STORE_UNUSABLE
        except (NotReachable, EmbeddedServerError) as error:
            log.error("%s", error)
            return exit_codes.NATS_NOT_REACHABLE
        finally:
            if self._embedded is not None:
                self._embedded.stop()

    def _run(self) -> int:
        # Before anything is started: it tells whether another service is here already.
        store = open_store(self._settings.store, self._settings.data_dir)
        service: Service | None = None
        try:
            service = Service(
                self._settings, self._find_servers(), store, go_on=lambda: self._signals == 0
            )
            return self._run_with(service)
        finally:
            # A checkpointer that did not end in time may be in the middle of a write, which must
            # not be pulled away under it. The end of the process gives up the store as well.
            if service is None or not service.uses_store:
                store.close()

    def _run_with(self, service: Service) -> int:
        monitor = self._open_monitor(service)
        api: ServiceApi | None = None
        try:
            service.start()
            if self._signals == 0 and service.failure is None:
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
                if not self._settings.no_service_api:
                    api = ServiceApi(service, service.service_api_link)
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
                find_server(self._settings.nats_server)
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
            Fields(data_dir=self._settings.data_dir),
        )
        return [url]

    def _open_monitor(self, service: Service) -> MonitorServer | None:
        if self._settings.http is None:
            return None
        monitor = MonitorServer(service, self._settings.http)
        monitor.start()
        return monitor

    def _watch(self, service: Service) -> int:
        while service.failure is None:
            time.sleep(WATCH_INTERVAL_S)
            self._supervisor.look_at(service)
            self._reloader.reload_if_asked(service)
            if self._signals > 0:
                self._supervisor.stopping()
                log.info("draining")
                if service.drain():
                    log.info("stopped: everything that arrived was worked off")
                    return exit_codes.CLEAN
                if service.failure is None:
                    self._tell_what_is_left(service)
                    return exit_codes.DRAIN_TIMED_OUT
            elif self._embedded is not None:
                self._look_after(self._embedded)
        thread, error = service.failure
        log.critical(
            "thread %s died, the service cannot go on", thread, exc_info=_exception_info(error)
        )
        return exit_codes.INTERNAL_ERROR

    @staticmethod
    def _tell_what_is_left(service: Service) -> None:
        log.error(
            "the drain timed out%s; what is left is %s; reasons: %s",
            Fields(
                backlog_bytes=service.listener.backlog_bytes if service.listener else 0,
                unconfirmed_bytes=(
                    service.publisher.window.unconfirmed_bytes if service.publisher else 0
                ),
            ),
            "read again by the next start" if service.mode == "stream" else "lost",
            "; ".join(service.troubles()) or "none, it only took too long",
        )

    def _look_after(self, embedded: EmbeddedServer) -> None:
        if not embedded.alive():
            self._restart_embedded(embedded)
        elif time.monotonic() >= self._look_at_disk_at:
            self._look_at_disk_at = time.monotonic() + DISK_INTERVAL_S
            if embedded.needs_restart():
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

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Nothing here takes a lock: the main thread may hold it at this very moment.
        self._signals += 1
        if self._signals > 1:
            try:
                # Not through logging: the handler may have interrupted a thread that holds its
                # lock. And only where it can be: nobody may read what stderr leads to.
                if select.select([], [2], [], 0)[1]:
                    name = signal.Signals(number).name
                    words = f"second {name}: stopping at once"
                    os.write(2, last_words(__name__, words, self._settings.log_format))
            except OSError:
                pass
            finally:
                if self._embedded is not None:
                    self._embedded.terminate()
                os._exit(exit_codes.DRAIN_TIMED_OUT)

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        # Somebody's wish, or the news that our terminal was closed: then it is gone by now.
        if self._in_terminal and not os.isatty(sys.stderr.fileno()):
            # A shell and the kernel both send it: the next one is no second wish, and must not find
            # the default handler either, which the interpreter puts back at its end.
            signal.signal(number, signal.SIG_IGN)
            if self._signals == 0:
                self._on_signal(number, frame)
        else:
            self._reloader.on_signal(number, frame)


def _exception_info(
    error: BaseException,
) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    return type(error), error, error.__traceback__
