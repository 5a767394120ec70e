"""Everything that was lost, by the place where it was."""

from __future__ import annotations

from alarmdigest.pipeline.service import Service

PLACES = (
    "listener",
    "core_connection",
    "stream_deleted",
    "stream_unread_lost",
    "rejection_queue",
    "rejection_publisher",
)

# The places that /status.json has under another name, which stays what it is.
JSON_KEYS = {"listener": "reader"}


def losses(service: Service) -> dict[str, int]:
    """Messages lost at each of PLACES since the start; all of them are always there.

    What a lost connection of core mode cost nobody knows: each counts as one.
    """
    found = dict.fromkeys(PLACES, 0)
    found["rejection_queue"] = service.rejections.unpublished
    if service.publisher is not None:
        found["rejection_publisher"] = service.publisher.confirmer.rejections_given_up
    if (listener := service.listener) is not None:
        router = listener.router
        found["listener"] = router.dropped_events + router.dropped_requests + router.dropped_forgets
        found |= listener.source.losses(router)
    return found


def json_key(place: str) -> str:
    """The name of a place of a loss, or of any other kind of incident, in ``/status.json``."""
    return JSON_KEYS.get(place, place)
