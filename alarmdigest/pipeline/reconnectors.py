"""The connections of a service: one for each purpose, all to the same servers."""

from __future__ import annotations

from dataclasses import dataclass, fields

from alarmdigest.nats.auth import Login
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.settings import Settings


@dataclass(frozen=True, slots=True)
class Reconnectors:
    """By purpose. ``startup``, ``lookup`` and ``snapshots`` make connections that do not last."""

    startup: Reconnector
    listener: Reconnector
    publisher: Reconnector
    lookup: Reconnector
    service_api: Reconnector
    watcher: Reconnector
    group: Reconnector
    snapshots: Reconnector

    @classmethod
    def of(cls, settings: Settings, urls: list[str]) -> Reconnectors:
        """Opens nothing yet. Raises UrlError."""

        def named(name: str, *, short_lived: bool = False) -> Reconnector:
            return Reconnector(
                urls,
                name=name,
                short_lived=short_lived,
                login=settings.login,
                ping_interval=settings.ping_interval.seconds,
                attempt_timeout=settings.connect_attempt_timeout.seconds,
            )

        return cls(
            startup=named("alarmdigest-startup"),
            listener=named("alarmdigest"),
            publisher=named("alarmdigest-publisher"),
            lookup=named("alarmdigest-lookup", short_lived=True),
            service_api=named("alarmdigest-micro"),
            watcher=named("alarmdigest-streams"),
            group=named("alarmdigest-group"),
            snapshots=named("alarmdigest-snapshots", short_lived=True),
        )

    def lasting(self, *, in_group: bool) -> dict[str, Reconnector]:
        """Those whose connections last and are shown to operators."""
        found = {
            "listener": self.listener,
            "publisher": self.publisher,
            "service_api": self.service_api,
        }
        if in_group:
            found["group"] = self.group
        return found

    def change_login(self, login: Login) -> None:
        """Use it from the next connection on."""
        for item in fields(self):
            getattr(self, item.name).login = login
