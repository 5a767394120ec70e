"""The NATS service API (ADR-32): what is asked, under which subjects, and who of us answers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from alarmdigest import __version__

VERBS: Final = ("PING", "INFO", "STATS")
#: Each verb is asked of everybody, of all services of a name, and of one of them by its id.
ADDRESSES: Final = 3


def subjects(name: str, own_id: str) -> list[str]:
    """Those to subscribe to: of VERBS[n] they are 3n to 3n + 2."""
    return [
        f"$SRV.{verb}{whom}" for verb in VERBS for whom in ("", f".{name}", f".{name}.{own_id}")
    ]


def head(verb: str, *, name: str, own_id: str, metadata: dict[str, str]) -> dict[str, Any]:
    """What every answer begins with."""
    return {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": name,
        "id": own_id,
        "version": __version__,
        "metadata": metadata,
    }


def endpoint(name: str, subject: str, **more: Any) -> dict[str, Any]:
    """One of those that INFO and STATS list."""
    return {"name": name, "subject": subject, "queue_group": "", **more}


class Stage(NamedTuple):
    """A process on the way of an alarm that is not the service.

    Its one endpoint is of the subject that the ``setting`` names, and ``metadata`` says that
    subject under ``about``: it tells whose way it is on. ``counters`` are what its STATS hold in
    ``data``; those of ``done`` and ``failed`` are the endpoint's requests and errors, too.
    """

    key: str
    about: str
    setting: str
    endpoint: str
    description: str
    counters: tuple[str, ...]
    done: str
    failed: str

    @property
    def name(self) -> str:
        return f"alarmdigest-{self.key}"


STAGES: Final = {
    stage.key: stage
    for stage in (
        Stage(
            "bridge",
            "events",
            "event_subject",
            "alert",
            "makes events of other systems' alerts",
            ("published", "rejected", "failed"),
            "published",
            "failed",
        ),
        Stage(
            "scheduler",
            "requests",
            "request_subject",
            "request",
            "requests digests at the times of schedules",
            ("acting", "waiting", "requests", "failed"),
            "requests",
            "failed",
        ),
        Stage(
            "deliver",
            "digests",
            "digest_subject",
            "digest",
            "makes messages to people of digests",
            ("acting", "waiting", "sent", "dead"),
            "sent",
            "dead",
        ),
    )
}
"""By key, in the order of the way. Of several processes of one kind those that are ``acting`` (1,
else 0) do the work."""
