"""One attempt to send one message by one target, through Apprise.

Apprise keeps a pool of threads for all that has a time limit, which a few endpoints that hang would
fill: so it gets none, and works in the thread that calls it (``pool.py`` has those). Nothing of
an URL is logged or told: of Apprise's log only warnings are taken, and its debug lines, which show
paths with tokens, go nowhere.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import apprise
from apprise import NotifyFormat, NotifyType
from apprise.common import PersistentStoreMode
from apprise.plugins.email.base import NotifyEmail

from alarmdigest.connect.deliver.addresses import (
    MAIL_SCHEMES,
    USER_ID,
    Unaddressable,
    UrlTemplate,
)
from alarmdigest.connect.deliver.mail import Mail
from alarmdigest.connect.deliver.message import CRITICAL, WARNING
from alarmdigest.connect.deliver.rendering import Rendered
from alarmdigest.runtime.text import printable

MAX_REASON_CHARS = 300
# What stands in for placeholders while a URL is checked: some are names, some addresses.
SAMPLES = ("alarmdigest", "alarmdigest@example.com")
MOST_SAMPLED = 6
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


class Checked(NamedTuple):
    """``problem`` is empty for a URL that can be used; ``recipients`` is how many it names."""

    problem: str
    recipients: int


def check(template: UrlTemplate) -> Checked:
    """What is wrong with a URL whatever is put into it, as far as Apprise can tell."""
    checked = Checked("Apprise cannot read it as a URL of this kind", 0)
    for some in itertools.product(SAMPLES, repeat=min(len(template.names), MOST_SAMPLED)):
        values = dict(itertools.zip_longest(template.names, some, fillvalue=SAMPLES[0]))
        with suppress(Unaddressable):
            service = _service(template.fill(values.get(USER_ID, SAMPLES[0]), values))
            if service is None:
                continue
            if not isinstance(service, Mail) or service.targets:
                return Checked("", max(1, len(service)))
            checked = Checked("it names no recipient that could be one", 0)
    return checked


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
