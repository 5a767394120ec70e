"""The HTTP side of the bridge, as an ASGI application: 200 means that JetStream has it all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn, TypeAlias
from urllib.parse import parse_qsl

import orjson

from alarmdigest.connect.answers import NotTaken, Send, in_json
from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Rejection, UnreadableBody
from alarmdigest.connect.bridge.authentication import Authentication
from alarmdigest.connect.bridge.mapping import Alarm, Mapped, Mapper
from alarmdigest.connect.bridge.publisher import Publisher
from alarmdigest.connect.bridge.rules import HttpRules, Rules
from alarmdigest.connect.bridge.senders import SENDERS
from alarmdigest.connect.bridge.work import Work
from alarmdigest.connect.pages import Pages
from alarmdigest.runtime.logs import LimitedLog, Untrusted

log = logging.getLogger(__name__)

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

# What requests that are not answered yet may hold in memory, their bodies and what was made of
# them, in multiples of the largest body.
HELD_BODIES = 4
# An alarm or a rejection without its texts.
ITEM_BYTES = 500
# So many are made before other requests, probes for instance, get their turn.
TURN = 200
MAX_QUERY_LABELS = 20
MAX_QUERY_CHARS = 2000


class _Parts(NamedTuple):
    """What a reload replaces."""

    http: HttpRules
    mapper: Mapper
    authentication: Authentication


class _Budget:
    """Of memory: what all requests hold that are not answered yet, in bytes."""

    def __init__(self) -> None:
        self._total = 0

    @contextmanager
    def request(self, limit: int) -> Iterator[Callable[[int], None]]:
        """Gives a function to take more bytes with, until the end of the block; it raises NotTaken
        where all together would be more than ``limit``."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            taken += count
            self._total += count
            if taken > limit:
                raise NotTaken(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "it becomes too many alarms")
            if self._total > limit:
                raise NotTaken(HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at a time")

        try:
            yield take
        finally:
            self._total -= taken


class Receiver:
    """Belongs to the event loop. ``requests`` counts answers by sender and status, ``alerts`` what
    they held, by sender and what became of it."""

    def __init__(self, rules: Rules, authentication: Authentication, publisher: Publisher) -> None:
        self.use(rules, authentication)
        self.pages: Pages | None = None
        self._publisher = publisher
        self._budget = _Budget()
        self.unconfirmed = 0  # requests that wait for JetStream
        self.stopping = False
        self.requests: Counter[tuple[str, int]] = Counter()
        self.alerts: Counter[tuple[str, str]] = Counter()
        self._trouble = LimitedLog(log, logging.WARNING)

    def use(self, rules: Rules, authentication: Authentication) -> None:
        """From the next request on. May be called by another thread."""
        self._parts = _Parts(rules.http, Mapper(rules), authentication)

    def readiness_failures(self) -> list[str]:
        """Sentences; empty while alerts are taken."""
        if self.stopping:
            return ["the bridge stops"]
        return [self._publisher.blocked] if self._publisher.blocked else []

    def counters(self) -> dict[str, int]:
        """Those of the bridge's stage (``wire/service_api.py``). For another thread."""
        found: Counter[str] = Counter()
        # A copy is made at once, while the event loop counts on.
        for (_sender, result), count in dict(self.alerts).items():
            found[result] += count
        return {
            "published": found["alarm"],
            "rejected": found["rejected"] + found["unreadable"],
            "failed": self._publisher.failed,
        }

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sender = scope["path"].strip("/")
        if sender not in SENDERS:
            assert self.pages is not None
            await self.pages.answer(scope["method"], sender).to(send)
            return
        try:
            answer = in_json(await self._answer(sender, scope, receive))
        except NotTaken as error:
            status, why = error.status, error.why
            client = (scope.get("client") or ("unknown",))[0]
            self._warn(f"answered {status.value}", sender, client=client, reason=Untrusted(why))
            answer = in_json({"error": why}, status)
        except Exception:
            log.exception("a request could not be answered")
            answer = in_json({"error": "an internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR)
        self.requests[sender, answer.status.value] += 1
        await answer.to(send)

    async def _answer(
        self, sender: str, scope: Mapping[str, Any], receive: Receive
    ) -> Mapping[str, Any]:
        """Raises NotTaken."""
        parts = self._parts
        if scope["method"] == "GET" and sender == "netdata-cloud":
            return _challenge(scope, parts.authentication)
        if scope["method"] != "POST":
            raise NotTaken(HTTPStatus.METHOD_NOT_ALLOWED, "alerts are sent with POST")
        headers = scope["headers"]
        if any(name == b"origin" for name, _value in headers):
            # Some page makes a visitor's browser send it.
            raise NotTaken(HTTPStatus.FORBIDDEN, "no alerts are taken from a browser")
        certified = scope.get("extensions", {}).get("tls", {}).get("names")
        if not parts.authentication.allows(headers, certified):
            raise NotTaken(
                HTTPStatus.UNAUTHORIZED, "no token, password or certificate that we know"
            )
        if failures := self.readiness_failures():
            raise NotTaken(HTTPStatus.SERVICE_UNAVAILABLE, failures[0])
        with self._budget.request(HELD_BODIES * parts.http.max_body) as take:
            body = await _body(scope, receive, parts.http.max_body, take)
            return await self._take(sender, scope, body, take, parts)

    async def _take(
        self,
        sender: str,
        scope: Mapping[str, Any],
        body: bytes,
        take: Callable[[int], None],
        parts: _Parts,
    ) -> dict[str, int]:
        """What became of the request's alerts. Raises NotTaken."""
        try:
            decoded = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            await self._reject_whole(sender, "json", f"not JSON in UTF-8: {error}", body)
        alarms: list[Alarm] = []
        rejections: list[Rejection] = []
        ignored: Counter[str] = Counter()
        try:
            found = _mapped(sender, decoded, _labels_of(scope["query_string"]), parts.mapper)
            for number, one in enumerate(found, 1):
                if isinstance(one, Alarm):
                    alarms.append(one)
                    take(ITEM_BYTES + len(one.details or b""))
                elif isinstance(one, Rejection):
                    rejections.append(one)
                    take(ITEM_BYTES + len(one.body))
                    self._warn("rejected an alert", sender, reason=Untrusted(one.detail))
                else:
                    ignored[one.why] += one.count
                if number % TURN == 0:
                    await asyncio.sleep(0)
        except UnreadableBody as error:
            await self._reject_whole(sender, "schema", str(error), body)
        del decoded
        if truncated := ignored.get("truncated"):
            self._warn(
                "the sender has left out alerts: see its max_alerts", sender, count=truncated
            )
        if alarms or rejections:
            await self._publish(sender, alarms, rejections)
        self.alerts[sender, "alarm"] += len(alarms)
        self.alerts[sender, "rejected"] += len(rejections)
        for why, count in ignored.items():
            self.alerts[sender, why] += count
        return {
            "alarms": len(alarms),
            "rejected": len(rejections),
            "ignored": sum(ignored.values()),
        }

    def _warn(self, message: str, sender: str, **fields: Any) -> None:
        """None of the senders hides what is wrong with another."""
        self._trouble(message, sender, sender=sender, **fields)

    async def _reject_whole(self, sender: str, reason: str, detail: str, body: bytes) -> NoReturn:
        """Keep what nobody sends again, and say what is wrong with it. Raises NotTaken."""
        self.alerts[sender, "unreadable"] += 1
        await self._publish(sender, (), (Rejection(reason, detail, body),))
        raise NotTaken(HTTPStatus.BAD_REQUEST, detail)

    async def _publish(
        self, sender: str, alarms: Sequence[Alarm], rejections: Sequence[Rejection]
    ) -> None:
        """Return once it is confirmed. Raises NotTaken."""
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[str] = loop.create_future()

        def settle(problem: str) -> None:
            if not confirmed.done():
                confirmed.set_result(problem)

        def on_published(problem: str) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(settle, problem)

        wait_s = self._parts.http.answer_timeout.seconds
        work = Work(sender, alarms, rejections, on_published)
        self.unconfirmed += 1
        try:
            problem = self._publisher.submit(work)
            if not problem:
                problem = await asyncio.wait_for(confirmed, wait_s)
        except asyncio.TimeoutError:
            problem = f"NATS has not confirmed it within {wait_s:g} s"
            work.abandoned = True
        finally:
            self.unconfirmed -= 1
        if problem:
            raise NotTaken(HTTPStatus.SERVICE_UNAVAILABLE, problem)


def _mapped(
    sender: str, decoded: Any, extra: Mapping[str, str], mapper: Mapper
) -> Iterator[Mapped]:
    for found in SENDERS[sender](decoded, extra):
        if isinstance(found, Alert):
            yield from mapper.map(found)
        else:
            assert isinstance(found, Rejection | NoAlarm)
            yield found


async def _body(
    scope: Mapping[str, Any], receive: Receive, limit: int, take: Callable[[int], None]
) -> bytes:
    """Raises NotTaken."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise NotTaken(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise NotTaken(HTTPStatus.SERVICE_UNAVAILABLE, "the request was not sent as a whole")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise NotTaken(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has more than {limit} bytes, see max_body",
            )
        take(len(part))
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _labels_of(query: bytes) -> dict[str, str]:
    """Those of the request's address, such as ``?user=ada``. Raises NotTaken."""
    try:
        pairs = parse_qsl(query.decode("ascii"), max_num_fields=MAX_QUERY_LABELS, errors="strict")
    except ValueError:
        raise NotTaken(HTTPStatus.BAD_REQUEST, "the address has no such query") from None
    if any(len(value) > MAX_QUERY_CHARS for _name, value in pairs):
        why = f"the address has more than {MAX_QUERY_CHARS} characters for a label"
        raise NotTaken(HTTPStatus.BAD_REQUEST, why)
    return dict(pairs)


def _challenge(scope: Mapping[str, Any], authentication: Authentication) -> Mapping[str, str]:
    """Netdata Cloud's. Raises NotTaken."""
    token = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("crc_token")
    if token is None:
        raise NotTaken(HTTPStatus.METHOD_NOT_ALLOWED, "alerts are sent with POST")
    answer = authentication.answer_challenge(token)
    if answer is None:
        raise NotTaken(HTTPStatus.NOT_FOUND, "[http] netdata_secret_file is not set")
    return answer
