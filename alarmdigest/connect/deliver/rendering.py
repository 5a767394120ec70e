"""From a message to the texts that are sent: a first version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, Message


class TemplateFailed(Exception):
    """A template could not be rendered: says which, and why."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """``subject`` is one line. ``worst`` is CRITICAL, WARNING, or CLEARED where nothing is active."""

    subject: str
    text: str
    html: str
    short: str
    worst: str


class Renderer:
    """Without a folder: with the built-in templates. Raises SettingsError for templates of the
    folder that cannot be used."""

    def __init__(self, folder: Path | None, *, most_rows: int) -> None:
        self._folder, self._most_rows = folder, most_rows

    def render(self, message: Message, *, zone: ZoneInfo, unsubscribe: str = "") -> Rendered:
        """Raises TemplateFailed."""
        statuses = [line.now or line.status for line in (*message.new, *message.still_active)]
        worst = next((one for one in (CRITICAL, WARNING) if one in statuses), CLEARED)
        text = "\n".join(f"{line.status} {line.alarm_id!r}" for line in message.new)
        return Rendered(f"{len(message.new)} new alarms", text, "", text[:700], worst)
