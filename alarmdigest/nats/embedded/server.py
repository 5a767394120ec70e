"""The embedded ``nats-server``: a child process that may outlive us.

A ``kill -9`` of the service leaves the server running, and that is wanted: publishers keep their
connection, and the stream goes on capturing what they send. The next start finds it again.

Two lock files in the server's folder say who is there. The kernel drops a lock with its last
holder, so neither can be stale:

* ``owner.lock`` is held by the service that this server belongs to;
* ``server.lock`` is held by the server itself, which inherits it open. It tells a living server
  from a dead one, a zombie or a foreign process with a reused pid, without asking ``/proc``.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from alarmdigest.nats.embedded.discovery import (
    GREETING_TIMEOUT,
    POLL,
    EmbeddedServerError,
    Program,
    choose_server,
    server_name_at,
)
from alarmdigest.runtime.folder_lock import FolderLocked, acquire_folder_lock
from alarmdigest.runtime.logs import Fields

log = logging.getLogger(__name__)

# Paths are relative and the server runs in its folder, so no data directory's name, whatever
# blanks or quotes it holds, needs quoting here. The host is the only text that does.
# Lines that a server older than this does not know: it would refuse all of it.
SINCE = {"max_buffered_msgs": (2, 11), "max_buffered_size": (2, 11)}
CONFIG = """\
# Written by alarmdigest at every start; changes made here are lost.
server_name: "{name}"
host: {host}
port: {port}
pid_file: "server.pid"
log_file: "server.log"
logfile_size_limit: 10MB
logfile_max_num: 3
# A client with more than this pending is cut off as a slow consumer (default 64 MB): a burst
# that we need a moment for must not cost us the connection.
max_pending: 512MB
jetstream {{
  store_dir: "."
  # Beyond these a publish without an acknowledgement is dropped, and nobody is told
  # (default 100,000 messages, 128 MB).
  max_buffered_msgs: 1000000
  max_buffered_size: 512MB
  # What a power failure may cost (default 2 minutes). "always" fills the buffers above.
  sync_interval: "1s"
}}
"""


NAME_PREFIX = "alarmdigest-"
# With less than this a disk is full: the server writes blocks of some MiB.
FULL_BYTES = 16 * 1024 * 1024
ROOM_AGAIN_BYTES = 64 * 1024 * 1024


class EmbeddedServer:
    """One ``nats-server`` with JetStream, everything of it below ``data_dir/nats``.

    ``start`` and ``stop`` may be called again; all methods belong to one thread, except that
    ``alive`` and ``terminate`` may be called from any, a signal handler included.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 4222,
        binary: str | None = None,
    ) -> None:
        root = data_dir.resolve()
        digest = hashlib.blake2b(os.fsencode(root), digest_size=8).hexdigest()
        self.server_name = NAME_PREFIX + digest
        """What the server calls itself: the same for the same data directory, always."""
        self.adopted = False
        """Whether the running server was found at the start, not started by us."""
        self._folder = root / "nats"
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self._port = port
        self._binary = binary
        self.program = Program(Path(), ())
        """What it is, once it was started."""
        self._whole_config = CONFIG.format(name=self.server_name, host=json.dumps(host), port=port)
        self._owner: int | None = None  # file descriptor of owner.lock
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._disk_was_full = False

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"nats://{host}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process, None when there is none that we started or adopted."""
        return self._pid

    def start(self, timeout: float = 20.0) -> None:
        """Adopt the server that an earlier run left behind, else start one, and wait until it
        answers, at most ``timeout`` seconds.

        A server left behind with other settings than ours (another port, an older version of
        this program) is stopped first. Raises EmbeddedServerError, and then leaves neither a
        process that it started nor a lock behind.
        """
        if self._owner is not None:
            raise EmbeddedServerError("the embedded server was started before")
        deadline = time.monotonic() + timeout
        try:
            self.program = choose_server(self._binary)
            self._own()
            if not self._adopt(deadline):
                self._spawn(deadline)
        except OSError as error:
            self._disown()
            raise EmbeddedServerError(f"cannot use {self._folder}: {error}") from error
        except BaseException:
            self._disown()
            raise

    def alive(self) -> bool:
        """Whether the server's process runs. Says nothing about whether it answers."""
        child = self._child
        if child is not None:
            return child.poll() is None  # reaps it, too
        return self._pid is not None and self._lock_is_held()

    def restart(self, timeout: float = 20.0) -> None:
        """Stop the server if it still runs, and start one on the same port and store.

        Raises EmbeddedServerError when the new one does not answer within ``timeout`` seconds;
        the folder stays ours, so it may be tried again.
        """
        if self._owner is None:
            raise EmbeddedServerError("the embedded server was never started")
        deadline = time.monotonic() + timeout
        self._end(timeout / 2)
        try:
            self._spawn(deadline)
        except OSError as error:
            raise EmbeddedServerError(f"cannot use {self._folder}: {error}") from error

    def needs_restart(self) -> bool:
        """Whether its disk was full and has room again: a stream that could not be written to once
        takes nothing until the server is started anew, and its API says nothing of it (nats-server
        2.15.1). Call it ten times a second, so that no full disk is missed; it costs nothing."""
        free = shutil.disk_usage(self._folder).free
        self._disk_was_full = self._disk_was_full or free < FULL_BYTES
        return self._disk_was_full and free > ROOM_AGAIN_BYTES

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, after ``timeout`` seconds SIGKILL, and give up the folder. Adopted or not."""
        try:
            self._end(timeout)
        finally:
            self._disown()

    def terminate(self) -> None:
        """SIGTERM, and do not wait."""
        self._signal(signal.SIGTERM)

    @property
    def _config(self) -> str:
        """Of all settings those that our server knows."""
        return "".join(
            line
            for line in self._whole_config.splitlines(keepends=True)
            if not self.program.version
            or self.program.version >= SINCE.get(line.strip().partition(":")[0], ())
        )

    # -- whose folder

    def _own(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._close_to_others()
        try:
            self._owner = acquire_folder_lock(self._folder)
        except FolderLocked as error:
            raise EmbeddedServerError(
                f"{self._folder} is in use by another alarmdigest (pid {error.pid}): stop it, "
                "or choose another data directory"
            ) from None

    def _close_to_others(self) -> None:
        """What it holds are users' alarms; the server makes its files readable for everybody."""
        mode = stat.S_IMODE(self._folder.stat().st_mode)
        if not mode & (stat.S_IRWXG | stat.S_IRWXO):
            return
        try:
            self._folder.chmod(stat.S_IRWXU)
            log.info(
                "%s was open to others than its owner (mode %o), now it is not", self._folder, mode
            )
        except OSError as error:
            log.warning(
                "%s is open to others than its owner (mode %o): %s",
                self._folder,
                mode,
                error.strerror,
            )

    def _disown(self) -> None:
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    # -- a server left behind

    def _adopt(self, deadline: float) -> bool:
        """Whether there was one and it is ours now. It may be starting still, or ending."""
        while self._lock_is_held():
            pid = self._pid_on_file()
            if pid is not None:
                self._pid = pid
                if (self._folder / "server.conf").read_text("utf-8") != self._config:
                    log.info(
                        "stopping a nats-server left behind with other settings:%s", Fields(pid=pid)
                    )
                    self._end(max(deadline - time.monotonic(), 1.0) / 2)
                    return False
                if self._answers():
                    self.adopted = True
                    return True
                self._pid = None
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"a nats-server left behind (pid {pid or 'unknown'}) uses {self._folder} and "
                    f"does not answer on {self.url}: stop it by hand; its log is server.log there"
                )
            time.sleep(POLL)
        return False

    def _pid_on_file(self) -> int | None:
        """The pid in the pid file if it can be a server of this folder. Ask only while
        server.lock is held."""
        try:
            pid = int((self._folder / "server.pid").read_text("ascii"))
            if pid <= 1:  # to signal 0 or -1 would be to signal many
                return None
            if os.path.exists("/proc/self/cmdline"):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.fsencode(self._folder / "server.conf") not in arguments:
                    return None
        except (OSError, ValueError):  # not written yet, or half of it
            return None
        return pid

    # -- a server of our own

    def _spawn(self, deadline: float) -> None:
        self.program = choose_server(self._binary)  # an upgrade may have replaced it
        binary = self.program.path
        self._port_must_be_free()
        config, pid_file = self._folder / "server.conf", self._folder / "server.pid"
        log_file, err_file = self._folder / "server.log", self._folder / "server.err"
        config.write_text(self._config, "utf-8")
        pid_file.unlink(missing_ok=True)  # so that one that is there is the living server's
        log_start = log_file.stat().st_size if log_file.exists() else 0
        self._disk_was_full = False
        lock = os.open(self._folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # No server has it any more; at most an `alive` of another thread does, for an instant.
            fcntl.flock(lock, fcntl.LOCK_EX)
            with err_file.open("wb") as err:
                child = subprocess.Popen(
                    [binary, "-c", config],
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=err,
                    stderr=err,
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C in our terminal is for us, not for it
                )
        except OSError as error:
            raise EmbeddedServerError(f"cannot run {binary}: {error}") from error
        finally:
            os.close(lock)  # ours; from here on only the server holds it
        self._child, self._pid = child, child.pid  # now, so that `terminate` can end the waiting
        try:
            while not self._answers():
                if child.poll() is not None:
                    why = f"nats-server ended at once with status {child.returncode}"
                    raise EmbeddedServerError(_last_words(why, log_file, log_start, err_file))
                if time.monotonic() > deadline:
                    why = f"nats-server does not answer on {self.url} in time"
                    raise EmbeddedServerError(_last_words(why, log_file, log_start, err_file))
                time.sleep(POLL)
        except BaseException:
            child.kill()
            child.wait()
            self._forget()
            raise

    def _port_must_be_free(self) -> None:
        name = server_name_at(self._host, self._port, GREETING_TIMEOUT)
        if name is None:
            return
        if name == self.server_name:
            raise EmbeddedServerError(
                f"a nats-server of this data directory answers on {self.url}, but it does not run "
                f"in {self._folder} (another machine or container?): stop it by hand"
            )
        raise EmbeddedServerError(
            f"a NATS server named {name!r} listens on {self.url}: use it (--server {self.url}), "
            "or stop it"
        )

    def _answers(self) -> bool:
        # What else may be on the port is no matter here: then our server ends, and says why.
        with suppress(EmbeddedServerError):
            return server_name_at(self._host, self._port, GREETING_TIMEOUT) == self.server_name
        return False

    # -- server.lock

    def _lock_is_held(self) -> bool:
        try:
            fd = os.open(self._folder / "server.lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two threads that ask do not take each other for the server.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    # -- the end

    def _signal(self, number: signal.Signals) -> None:
        if self.alive() and self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def _end(self, timeout: float) -> None:
        self._signal(signal.SIGTERM)
        if not self._ended(timeout):
            log.warning("nats-server does not stop, killing it:%s", Fields(pid=self._pid))
            self._signal(signal.SIGKILL)
            if not self._ended(5.0):
                raise EmbeddedServerError(f"nats-server (pid {self._pid}) cannot be killed")
        self._forget()

    def _ended(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True

    def _forget(self) -> None:
        self._child = self._pid = None
        self.adopted = False


def _last_words(why: str, log_file: Path, log_start: int, err_file: Path) -> str:
    """``why``, and what the server said since it was started; a panic says it first, a log last."""
    log_text = b""
    with suppress(OSError), log_file.open("rb") as log_now:
        # Smaller than it was: it was rotated meanwhile.
        log_now.seek(log_start if log_file.stat().st_size >= log_start else 0)
        log_text = log_now.read()
    err_text = b""
    with suppress(OSError):
        err_text = err_file.read_bytes()
    lines = [*err_text.splitlines()[:10], *log_text.splitlines()[-10:]]
    return "\n  ".join([why, *(line.decode("utf-8", "replace") for line in lines)])
