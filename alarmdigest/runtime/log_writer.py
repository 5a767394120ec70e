"""The thread that writes to stderr, so that no other one waits for whoever reads it.

What stderr leads to may hang (a pipe that nobody reads, a terminal after ^S), be closed, or be a
file on a full disk. None of this holds up the service: lines wait here, in order, up to a limit;
what had to be dropped is counted, and said as soon as lines come out again.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque

from alarmdigest.runtime.resource_limits import exhausted_resource

log = logging.getLogger(__name__)

STDERR = 2
# Some 20,000 lines. Beyond it the oldest go: the newest tell what is wrong now.
MAX_WAITING_BYTES = 4 * 1024 * 1024
# How long the last lines may hold up the end of the process.
FLUSH_TIMEOUT_S = 2.0
RETRY_INTERVAL_S = 1.0
NEWLINE = 0x0A


class LogWriter(logging.Handler):
    """Formats a record in the thread that logs it, and has its own thread write it to stderr.

    ``dropped`` counts the lines that did not come out. May be used by any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.only_records = False
        """Whether each line must be a record, as in JSON, also what somebody just prints."""
        self._untold = 0  # of the dropped ones
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing = False
        self._hangs = False
        self._in_line = False  # the last byte that came out was not the end of a line
        # Reentrant: a finalizer that runs in the middle of put() may have something to say.
        self._changed = threading.Condition(threading.RLock())

    def start(self) -> None:
        """Raises RuntimeError where no thread can be started."""
        threading.Thread(target=self._write_for_ever, name="log-writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # what shall be logged is at fault; its writer goes on
            line = f"a log line of {record.pathname}:{record.lineno} cannot be made: {error!r}"
        self.put(line)

    def put(self, text: str) -> None:
        """Have this written as it is, behind all that was put before. Never waits."""
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            self._lines.append(line)
            self._waiting_bytes += len(line)
            while self._waiting_bytes > MAX_WAITING_BYTES and len(self._lines) > 1:
                self._waiting_bytes -= len(self._lines.popleft())
                self._drop()
            self._changed.notify_all()

    def put_stray(self, text: str) -> None:
        """What is printed instead of logged."""
        if self.only_records:
            self.emit(logging.LogRecord("stderr", logging.ERROR, "", 0, "%s", (text,), None))
        else:
            self.put(text)

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until all is written, ``timeout_s`` seconds at most; once in vain is enough."""
        with self._changed:
            done = self._changed.wait_for(self._idle, 0.0 if self._hangs else timeout_s)
            self._hangs = not done

    def _idle(self) -> bool:
        return not self._lines and not self._writing

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    # -- the thread ------------------------------------------------------------------------------

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
                self._waiting_bytes -= len(line)
                self._writing = True
                untold = self._untold
            try:
                written = (not untold or self._tell(untold)) and self._write(line)
            except Exception:  # no memory, say; the next line may find some
                written = False
            if not written:
                with self._changed:
                    self._drop()

    def _tell(self, count: int) -> bool:
        """Say that so many are missing here; whether that came out."""
        text = f"{count} log lines were dropped: stderr hung or could not be written"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        if not self._write(self.format(record).encode() + b"\n"):
            return False
        with self._changed:
            self._untold -= count
        return True

    def _write(self, line: bytes) -> bool:
        """Write it, however long that takes. False when it did not all come out."""
        left = memoryview(b"\n" + line if self._in_line else line)
        while left:
            try:
                count = os.write(STDERR, left)
            except BlockingIOError:  # somebody with whom we share the terminal has made it so
                _await_room()
            except OSError:  # nobody reads there, or no room on the disk
                return False
            else:
                self._in_line = left[count - 1] != NEWLINE
                left = left[count:]
        return True


def _await_room() -> None:
    poller = select.poll()
    poller.register(STDERR, select.POLLOUT)
    time.sleep(0.01)  # should poll() and write() ever disagree, nothing spins
    poller.poll(RETRY_INTERVAL_S * 1000)


class StderrStream(io.TextIOBase):
    """Takes the place of ``sys.stderr``: what anybody prints there must not wait either."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer
        self._line = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._writer.put_stray(line)
        return len(text)

    def end_line(self) -> None:
        if self._line:
            self.write("\n")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return STDERR

    def isatty(self) -> bool:
        return os.isatty(STDERR)


def begin() -> None:
    """From now on stderr is written to by a thread of its own, whoever writes.

    Not where somebody in this process reads it, as a test may. Raises RuntimeError where no thread
    can be started.
    """
    if sys.stderr is not sys.__stderr__ or current() is not None:
        return
    writer = LogWriter()
    writer.start()
    logging.basicConfig(handlers=[writer], force=True)
    logging.captureWarnings(True)
    sys.unraisablehook = _say_unraisable
    threading.excepthook = _say_thread_ended
    sys.stderr = StderrStream(writer)


def end(timeout_s: float = FLUSH_TIMEOUT_S) -> None:
    """Let the last lines come out, if they can within ``timeout_s`` seconds."""
    if isinstance(sys.stderr, StderrStream):
        sys.stderr.end_line()
        sys.stderr = sys.__stderr__
    if (writer := current()) is not None:
        writer.flush(timeout_s)


def _say_unraisable(what: sys.UnraisableHookArgs) -> None:
    """In a finalizer, as a rule of something that came about only in part."""
    log.warning("an error was passed over in %r: %r", what.object, what.exc_value)


def _say_thread_ended(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread is not None else "unknown"
    cause = what.exc_value
    if cause is not None and (why := exhausted_resource(cause)) is not None:
        log.error("thread %s ended: %s", name, why)
    else:
        log.error("thread %s ended", name, exc_info=cause)


def current() -> LogWriter | None:
    """The one that begin() has put there."""
    return next((one for one in logging.getLogger().handlers if isinstance(one, LogWriter)), None)


def lines_dropped() -> int:
    """Log lines that did not come out, since the start."""
    writer = current()
    return 0 if writer is None else writer.dropped
