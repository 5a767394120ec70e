"""No web page from elsewhere reads us through its visitor's browser."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


def may_ask_as(host_header: str | None, served_at: str) -> bool:
    """Whether a request that names us by this ``Host`` is to be answered.

    A page from elsewhere can make its own name point to the loopback (DNS rebinding) and would
    then read us as itself; but the name it asks for is its own. Where we were told to listen
    elsewhere than on the loopback, we do not know under which names we are reached, and answer.
    """
    if host_header is None or not _is_loopback(served_at):  # no browser leaves it out
        return True
    name = _without_port(host_header).lower().rstrip(".")
    return name == served_at.lower() or _is_loopback(name)


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]
