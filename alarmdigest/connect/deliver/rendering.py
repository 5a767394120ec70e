"""From a message to the texts that are sent, by four templates.

A template that fails costs nobody his message: who sends it takes a ``Renderer`` without a folder
then, whose templates fail on nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import TemplateNotFound, TemplateSyntaxError, pass_context
from jinja2.runtime import Context

from alarmdigest.connect.deliver import template_limits as limits
from alarmdigest.connect.deliver.clean_text import cut, for_chat, one_line
from alarmdigest.connect.deliver.message import Message
from alarmdigest.connect.deliver.sample_messages import SAMPLE_ZONE, SAMPLES
from alarmdigest.connect.deliver.sandbox import Sandbox
from alarmdigest.connect.deliver.shown import Clean, Shown, shown
from alarmdigest.connect.deliver.template_files import TEMPLATES, TemplateFiles
from alarmdigest.connect.deliver.template_filters import USUAL_FORMAT, local_time
from alarmdigest.settings import SettingsError

SUBJECT_CHARS = 150
# Fits a message of Slack, Telegram and Discord, and five of SMS.
SHORT_CHARS = 700
SHORT_ROWS = 12
MAX_BYTES = 2**20
WHY_CHARS = 300
# No template can name it.
_ZONE = "the zone"


class TemplateFailed(Exception):
    """Says which template, the line if it is known, and why."""


class _TooLong(TemplateFailed):
    """Fewer alarms may help."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """``subject`` is one line, ``short`` has no markup. ``worst`` is the status of the worst alarm
    that is new, else of the worst that is still active, else CLEARED."""

    subject: str
    text: str
    html: str
    short: str
    worst: str


class Renderer:
    """Any thread may use it. Those templates that the folder lacks, or all without one, are the
    built-in ones."""

    def __init__(self, folder: Path | None, *, most_rows: int) -> None:
        """``most_rows`` alarms of a message are shown. Raises SettingsError, a line for each
        template of the folder that cannot be compiled or that fails on a sample."""
        assert most_rows > 0
        self._most_rows = most_rows
        self._files = TemplateFiles(folder)
        self._sandbox = Sandbox(self._files.loader())
        self._sandbox.filters["time"] = _time
        if problems := [*self._problems(), *self._files.unused(self._sandbox)]:
            raise SettingsError(*problems)

    def render(self, message: Message, *, zone: ZoneInfo, unsubscribe: str = "") -> Rendered:
        """``unsubscribe`` is the address of a web page. Raises TemplateFailed."""
        limits.start_clock()

        def variables(rows: int, clean: Clean) -> Shown:
            name = zone.key or "local time"
            return shown(message, zone=name, unsubscribe=unsubscribe, rows=rows, clean=clean)

        def fitting(name: str) -> str:
            return self._fewer_until_it_fits(name, lambda rows: variables(rows, _as_it_is), zone)

        usual = variables(1, _as_it_is)
        return Rendered(
            subject=self._subject(usual, zone),
            text=fitting("message.txt"),
            html=fitting("message.html"),
            short=self._short(lambda rows: variables(rows, for_chat), zone),
            worst=usual.worst,
        )

    def _subject(self, variables: Shown, zone: ZoneInfo) -> str:
        subject = one_line(self._rendered("subject.txt", variables, zone), SUBJECT_CHARS)
        return subject or variables.headline

    def _short(self, variables: Callable[[int], Shown], zone: ZoneInfo) -> str:
        rows = min(SHORT_ROWS, self._most_rows)
        while True:
            text = self._rendered("short.txt", variables(rows), zone).strip()
            if len(text) <= SHORT_CHARS or rows <= 1:
                return cut(text, SHORT_CHARS)
            rows -= 1

    def _fewer_until_it_fits(
        self, name: str, variables: Callable[[int], Shown], zone: ZoneInfo
    ) -> str:
        """Long texts in many rows may be more than is allowed, and are no fault of a template."""
        rows = self._most_rows
        while True:
            try:
                return self._rendered(name, variables(rows), zone).strip() + "\n"
            except _TooLong:
                if rows == 1:
                    raise
                rows //= 2

    def _rendered(self, name: str, variables: Shown, zone: ZoneInfo) -> str:
        given = {one.name: getattr(variables, one.name) for one in fields(variables)}
        parts, size = [], 0
        try:
            template = self._sandbox.get_template(name)
            for part in template.generate(given, **{_ZONE: zone}):
                limits.check_time()
                data = part.encode("utf-8", "replace")
                size += len(data)
                if size > MAX_BYTES:
                    raise limits.LimitExceeded(f"more than {MAX_BYTES:,} bytes", too_long=True)
                parts.append(data)
        except Exception as error:  # whatever a template may raise is its own failure
            why = self._explained(name, error)
            if isinstance(error, limits.LimitExceeded) and error.too_long:
                raise _TooLong(why) from None
            raise TemplateFailed(why) from error
        if not (text := b"".join(parts).decode()).strip():
            raise TemplateFailed(f"{self._files.path_of(name)}: it writes nothing")
        return text

    def _problems(self) -> list[str]:
        """What is wrong with the folder's templates, a sentence for each."""
        if not self._files.own:
            return []
        found = []
        for name in TEMPLATES:
            for sample in SAMPLES:
                limits.start_clock()
                rows = min(self._most_rows, SHORT_ROWS)
                clean = for_chat if name == "short.txt" else _as_it_is
                given = shown(sample, zone=SAMPLE_ZONE.key, unsubscribe="", rows=rows, clean=clean)
                try:
                    self._rendered(name, given, SAMPLE_ZONE)
                except TemplateFailed as error:
                    found.append(f"{error} (with a sample message, see docs/messages.md)")
                    break
        return found

    def _explained(self, name: str, error: Exception) -> str:
        """``FILE, line 3: why``, of the innermost template."""
        file, line = self._files.path_of(name), 0
        if isinstance(error, TemplateSyntaxError):
            file, line = error.filename or file, error.lineno
        else:
            ours = {self._files.path_of(one) for one in self._files.names}
            for frame in traceback.extract_tb(error.__traceback__):
                if frame.filename in ours:
                    file, line = frame.filename, frame.lineno or 0
        if isinstance(error, RecursionError):
            why = "it includes or calls itself without end"
        elif isinstance(error, TemplateNotFound):
            why = f"there is no template {error.message}"
        else:
            why = str(error) or type(error).__name__
        return f"{file}{f', line {line}' if line else ''}: {one_line(why, WHY_CHARS)}"


def _as_it_is(text: str) -> str:
    return text


@pass_context
def _time(context: Context, ns: int, form: str = USUAL_FORMAT) -> str:
    zone = context.resolve(_ZONE)
    assert isinstance(zone, ZoneInfo)
    return local_time(ns, zone, form)
