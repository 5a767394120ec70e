"""SIGHUP: settings are read again, and those that can change while the service runs, do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields, replace

from alarmdigest.nats.auth import Login
from alarmdigest.nats.errors import LoginError
from alarmdigest.pipeline.service import Service
from alarmdigest.settings import ResolvedSettings, Settings, SettingsError

log = logging.getLogger(__name__)

# Not the inbox prefix: it was checked against subjects that only a restart brings.
AT_THE_NEXT_CONNECTION = frozenset(item.name for item in fields(Login)) - {"inbox_prefix"}
AT_ONCE = frozenset({"log_level"})


class Reloader:
    """Belongs to the main thread. ``read`` reads all sources anew; it raises SettingsError."""

    def __init__(self, settings: Settings, read: Callable[[], ResolvedSettings]) -> None:
        self._started_with = self._now = settings
        self._contents = settings.login.contents()
        self._read = read
        self._asked = False

    def ask(self) -> None:
        """A SIGHUP has come. May be called by any thread."""
        self._asked = True

    def reload_if_asked(self, service: Service) -> None:
        """Read the settings again if a SIGHUP has come; what is wrong with them is logged only."""
        if not self._asked:
            return
        self._asked = False
        try:
            resolved = self._read()
            warnings = [*resolved.warnings, *resolved.settings.login.check()]
        except (SettingsError, LoginError) as error:
            log.error("SIGHUP: the settings stay as they are: %s", error)
            return
        for warning in warnings:
            log.warning("%s", warning)
        self._take(resolved.settings, service)

    def _take(self, new: Settings, service: Service) -> None:
        changed = _differing(self._now, new)
        contents = new.login.contents()
        replaced = {name for name in contents if self._contents.get(name) != contents[name]}
        for_restart = _differing(self._started_with, new) - AT_ONCE - AT_THE_NEXT_CONNECTION
        # Said as long as the more talkative of the two levels holds, so that it is seen.
        before, after = (_number(one.log_level) for one in (self._now, new))
        logging.getLogger().setLevel(min(before, after))
        self._now, self._contents = new, contents
        inboxes = self._started_with.inbox_prefix
        service.reconnectors.change_login(replace(new.login, inbox_prefix=inboxes))
        # Names only: some of the values are secrets.
        told = {
            "changed": changed & AT_ONCE,
            "from the next connection on": changed & AT_THE_NEXT_CONNECTION,
            "from the next connection on, what these files hold": replaced - changed,
            "as at the start again": changed - AT_ONCE - AT_THE_NEXT_CONNECTION - for_restart,
        }
        news = [f"{when}: {', '.join(sorted(names))}" for when, names in told.items() if names]
        if news or not changed:
            log.info("SIGHUP: settings read again; %s", "; ".join(news) or "nothing has changed")
        if for_restart:
            log.warning("SIGHUP: only after a restart: %s", ", ".join(sorted(for_restart)))
        logging.getLogger().setLevel(after)


def _number(level: str) -> int:
    return int(getattr(logging, level.upper()))


def _differing(one: Settings, other: Settings) -> set[str]:
    names = (item.name for item in fields(Settings))
    return {name for name in names if getattr(one, name) != getattr(other, name)}
