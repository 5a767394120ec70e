"""One attempt to send one message by one target, through Apprise.

Apprise keeps a pool of threads for all that has a time limit, which a few endpoints that hang would
fill: so it gets none, and works in the thread that calls it (``workers.py`` has those). Nothing of
an URL is logged or told: of Apprise's log only warnings are taken, and its debug lines, which show
paths with tokens, go nowhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import apprise
from apprise import NotifyFormat, NotifyType
from apprise.common import PersistentStoreMode
from apprise.plugins.email.base import NotifyEmail

from alarmdigest.connect.deliver.addresses import MAIL_SCHEMES
from alarmdigest.connect.deliver.mail import Mail
from alarmdigest.connect.deliver.message import CRITICAL, WARNING
from alarmdigest.connect.deliver.rendering import Rendered
from alarmdigest.runtime.text import printable

MAX_REASON_CHARS = 300
_TYPES = {CRITICAL: NotifyType.FAILURE, WARNING: NotifyType.WARNING}
# Those whose debug lines have URLs.
_TALKATIVE = ("apprise", "urllib3", "requests")


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent, and to whom. ``address`` is a URL that was filled, and a secret."""

    address: str
    form: str
    rendered: Rendered
    digest_ids: tuple[str, ...]
    unsubscribe: str = ""


def silence_libraries() -> None:
    """They log what holds secrets; we say what went wrong ourselves."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


silence_libraries()


def _asset() -> apprise.AppriseAsset:
    return apprise.AppriseAsset(
        app_id="alarmdigest",
        app_desc="alarmdigest",
        async_mode=False,
        service_timeout=0,
        storage_mode=PersistentStoreMode.MEMORY.value,
    )


def _service(address: str) -> Any:
    """What Apprise makes of a URL; None where it cannot read it."""
    try:
        if address.partition("://")[0].lower() not in MAIL_SCHEMES:
            return apprise.Apprise.instantiate(address, asset=_asset())
        fields = NotifyEmail.parse_url(address)
        return Mail(**fields, asset=_asset()) if fields else None
    except Exception:  # a plugin may raise whatever it likes, and its text may hold the URL
        return None


def problem_with(address: str) -> str:
    """Why nothing can be sent there; empty where something can."""
    service = _service(address)
    if service is None:
        return "Apprise cannot read it as a URL of this kind"
    if isinstance(service, Mail) and not service.targets:
        return "it names no recipient that could be one"
    return ""


def recipients(address: str) -> int:
    """How many the URL names; 0 where it cannot be read."""
    service = _service(address)
    return 0 if service is None else max(1, len(service))


def send(letter: Letter) -> str:
    """What went wrong; empty where the receiving side has taken it.

    Takes as long as the other side does: each step has a time limit, a slow one has many steps.
    """
    service = _service(letter.address)
    if service is None:
        return "Apprise cannot read the URL"
    rendered = letter.rendered
    body = {"html": rendered.html, "short": rendered.short}.get(letter.form, rendered.text)
    if isinstance(service, Mail):
        service.digest_ids, service.address = letter.digest_ids, letter.address
        service.plain, service.unsubscribe = rendered.text, letter.unsubscribe
    sender = apprise.Apprise(asset=_asset())
    sender.add(service)
    with sender.notify(
        body=body,
        title=" ".join(rendered.subject.split()),
        notify_type=_TYPES.get(rendered.worst, NotifyType.SUCCESS),
        body_format=NotifyFormat.HTML if letter.form == "html" else NotifyFormat.TEXT,
    ) as result:
        # A service that is "optional" in its URL counts as a success whatever became of it.
        attempts = [attempt for one in result for attempt in one.attempts]
        if any(attempts):
            return ""
        told = [entry.message for entry in result.logs()]
    reason = getattr(service, "problem", "") or (told[-1] if told else "Apprise does not say why")
    return printable(" ".join(str(reason).split()))[:MAX_REASON_CHARS]
