"""The threads that send."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from alarmdigest.connect.deliver.addresses import MAIL_SCHEMES
from alarmdigest.connect.deliver.clean_text import chat_lines
from alarmdigest.connect.deliver.lanes import Item, Lanes
from alarmdigest.connect.deliver.message import Message
from alarmdigest.connect.deliver.rendering import Rendered, Renderer, TemplateFailed
from alarmdigest.connect.deliver.routes import Way
from alarmdigest.connect.deliver.sender import Letter, send
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.queues import ByteQueue
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of a message for one target, for good."""

    item: Item
    what: Literal["sent", "dead"]
    why: str = ""


class Renderers:
    """Makes texts with the operator's templates, and with the built-in ones where those fail."""

    def __init__(self, renderer: Renderer, most_rows: int) -> None:
        self.renderer = renderer
        self._built_in = Renderer(None, most_rows=most_rows)
        self.failures = 0
        self._lock = threading.Lock()
        self._failed = LimitedLog(log, logging.WARNING)

    def render(self, message: Message, way: Way) -> Rendered:
        """Raises TemplateFailed where even the built-in ones fail."""
        try:
            return self.renderer.render(message, zone=way.zone, unsubscribe=way.unsubscribe)
        except TemplateFailed as error:
            with self._lock:
                self.failures += 1
                self._failed("made with the built-in templates", reason=error)
        return self._built_in.render(message, zone=way.zone, unsubscribe=way.unsubscribe)

    def letter(self, message: Message, way: Way) -> Letter:
        """What goes to a target. Raises as ``render``."""
        rendered = self.render(message, way)
        if way.target.url.scheme not in MAIL_SCHEMES:  # a chat may make more of it than text
            rendered = replace(rendered, text=chat_lines(rendered.text))
        return Letter(way.address, way.target.form, rendered, message.digest_ids, way.unsubscribe)


class Worker(ServiceThread):
    """Sends one message after the other. ``abandoned``: its last one takes so long that another
    thread has its place; it ends with it."""

    def __init__(
        self,
        name: str,
        lanes: Lanes,
        renderers: Callable[[], Renderers],
        outcomes: ByteQueue[Outcome],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__(name, on_failure)
        self._lanes, self._renderers, self._outcomes = lanes, renderers, outcomes
        self.stopping = False
        self.abandoned = False

    def work(self) -> None:
        while not self.stopping and not self.abandoned:
            self.sign_of_life()
            if (item := self._lanes.take(TICK_S)) is not None:
                with self.busy("sending"):
                    self._deliver(item)

    def _deliver(self, item: Item) -> None:
        try:
            reason = send(self._renderers().letter(item.message, item.way))
        except Exception as error:  # one message must neither end the process nor be stuck
            reason = f"an internal error ({type(error).__name__})"
        if not reason:
            self._lanes.sent(item)
            self._outcomes.put(Outcome(item, "sent"))
            return
        for dead in self._lanes.failed(item, reason):
            why = "attempts" if dead.attempts >= self._lanes.most_attempts else "too_old"
            self._outcomes.put(Outcome(dead, "dead", why))


class Pool:
    """So many threads that are not stuck in a send that hangs; of those that are, at most as many
    again are replaced."""

    def __init__(
        self, threads: int, hangs_after_s: float, make_worker: Callable[[str], Worker]
    ) -> None:
        self._threads = threads
        self._hangs_after_s = hangs_after_s
        self._make = make_worker
        self._workers: list[Worker] = []
        self._made = 0

    def start(self) -> None:
        for _ in range(self._threads):
            self._add()

    def _add(self) -> None:
        self._made += 1
        worker = self._make(f"sender-{self._made}")
        self._workers.append(worker)
        worker.start()

    def look(self) -> None:
        """Replace those that hang."""
        self._workers = [one for one in self._workers if one.is_alive()]
        for one in list(self._workers):
            hangs = not one.abandoned and one.busy_for_s > self._hangs_after_s
            if hangs and self.hanging < self._threads:
                one.abandoned = True
                self._add()

    @property
    def hanging(self) -> int:
        return sum(one.abandoned for one in self._workers)

    @property
    def sending(self) -> int:
        return sum(bool(one.busy_with) for one in self._workers)

    def stop(self) -> None:
        for one in self._workers:
            one.stopping = True

    def join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for one in self._workers:
            one.join(max(0.0, deadline - time.monotonic()))

    def stuck(self) -> list[str]:
        return [one.name for one in self._workers if one.stuck]
