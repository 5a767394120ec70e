"""The HTTP side of the bridge, as an ASGI application: 200 means that JetStream has it all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Refusal, UnreadableBody
from alarmdigest.connect.bridge.authentication import Authentication
from alarmdigest.connect.bridge.mapping import Alarm, Mapper
from alarmdigest.connect.bridge.publisher import Publisher
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.senders import SENDERS
from alarmdigest.connect.bridge.work import Work
from alarmdigest.runtime.logs import LimitedLog, Untrusted

log = logging.getLogger(__name__)

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

Page: TypeAlias = tuple[HTTPStatus, str | bytes, bytes]
"""Status, body and content type."""

# Bodies that are being read, all together, in multiples of the largest one.
BODIES_AT_ONCE = 4
# So many alerts are mapped before other requests, probes for instance, get their turn.
TURN = 200
MAX_QUERY_LABELS = 20
MAX_QUERY_CHARS = 200
JSON_TYPE, TEXT_TYPE = b"application/json", b"text/plain; charset=utf-8"
# Senders come again after a while of their own; this is for who asks.
RETRY_AFTER_S = b"5"


class Answered(Exception):
    """The answer is this, whatever else was to be done."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Receiver:
    """Belongs to the event loop. ``requests`` counts answers by sender and status, ``alerts`` what
    they held, by sender and what became of it."""

    def __init__(
        self,
        rules: Rules,
        authentication: Authentication,
        publisher: Publisher,
        registry: CollectorRegistry,
        liveness_failures: Callable[[], list[str]],
    ) -> None:
        self.use(rules, authentication)
        self._publisher = publisher
        self._registry = registry
        self._liveness_failures = liveness_failures
        self._held = 0
        self.unconfirmed = 0  # requests that wait for JetStream
        self.stopping = False
        self.requests: Counter[tuple[str, int]] = Counter()
        self.alerts: Counter[tuple[str, str]] = Counter()
        self._not_taken = LimitedLog(log, logging.WARNING)
        self._refused = LimitedLog(log, logging.WARNING)

    def use(self, rules: Rules, authentication: Authentication) -> None:
        """From the next request on. May be called by another thread."""
        self._parts = rules.http, Mapper(rules), authentication

    @property
    def readiness_failures(self) -> list[str]:
        """Sentences; empty while alerts are taken."""
        if self.stopping:
            return ["the bridge stops"]
        return [self._publisher.blocked] if self._publisher.blocked else []

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        sender = scope["path"].strip("/")
        if sender not in SENDERS:
            await self._page(scope, send)
            return
        try:
            if scope["method"] == "GET" and sender == "netdata-cloud":
                await _answer(send, HTTPStatus.OK, self._challenge(scope))
                return
            if scope["method"] != "POST":
                raise Answered(HTTPStatus.METHOD_NOT_ALLOWED, "alerts are sent with POST")
            answer = await self._take(sender, scope, receive)
            self.requests[sender, 200] += 1
            await _answer(send, HTTPStatus.OK, answer)
        except Answered as error:
            self.requests[sender, error.status.value] += 1
            self._not_taken(
                f"answered {error.status.value}", sender=sender, reason=Untrusted(error.text)
            )
            await _answer(send, error.status, {"error": error.text})

    async def _take(
        self, sender: str, scope: Mapping[str, Any], receive: Receive
    ) -> dict[str, int]:
        """What became of the request's alerts. Raises Answered."""
        http, mapper, authentication = self._parts
        certified = scope.get("extensions", {}).get("tls", {}).get("names", ())
        if not authentication.allows(scope["headers"], certified):
            raise Answered(
                HTTPStatus.UNAUTHORIZED, "no token, password or certificate that we know"
            )
        if failures := self.readiness_failures:
            raise Answered(HTTPStatus.SERVICE_UNAVAILABLE, failures[0])
        body = await self._body(scope, receive, http.max_body)
        try:
            decoded = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            await self._refuse_whole(sender, "json", f"not JSON in UTF-8: {error}", body)
        alarms: list[Alarm] = []
        refusals: list[Refusal] = []
        counts: Counter[str] = Counter()
        extra = _labels_of(scope["query_string"])
        number = 0
        try:
            for found in SENDERS[sender](decoded, extra):
                for one in mapper.map(found) if isinstance(found, Alert) else (found,):
                    if isinstance(one, Alarm):
                        alarms.append(one)
                    elif isinstance(one, Refusal):
                        refusals.append(one)
                        self._refused(
                            "refused an alert", sender=sender, reason=Untrusted(one.detail)
                        )
                    else:
                        assert isinstance(one, NoAlarm)
                        counts[one.why] += 1
                number += 1
                if number % TURN == 0:
                    await asyncio.sleep(0)
        except UnreadableBody as error:
            await self._refuse_whole(sender, "schema", str(error), body)
        if alarms or refusals:
            await self._publish(sender, alarms, refusals)
        self.alerts[sender, "alarm"] += len(alarms)
        self.alerts[sender, "refused"] += len(refusals)
        for why, count in counts.items():
            self.alerts[sender, why] += count
        return {"alarms": len(alarms), "refused": len(refusals), "ignored": counts.total()}

    async def _body(self, scope: Mapping[str, Any], receive: Receive, limit: int) -> bytes:
        for name, value in scope["headers"]:
            if name == b"content-encoding" and value.lower() != b"identity":
                raise Answered(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed")
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Answered(
                        HTTPStatus.REQUEST_TIMEOUT, "the request was not sent as a whole"
                    )
                part = message.get("body", b"")
                size += len(part)
                self._held += len(part)
                if size > limit:
                    raise Answered(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        f"the body has more than {limit} bytes, see max_body",
                    )
                if self._held > BODIES_AT_ONCE * limit:
                    raise Answered(
                        HTTPStatus.SERVICE_UNAVAILABLE, "too many large requests at a time"
                    )
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
        finally:
            self._held -= size

    async def _refuse_whole(self, sender: str, reason: str, detail: str, body: bytes) -> NoReturn:
        """Keep what nobody sends again, and say what is wrong with it. Raises Answered."""
        self.alerts[sender, "unreadable"] += 1
        await self._publish(sender, (), (Refusal(reason, detail, body),))
        raise Answered(HTTPStatus.BAD_REQUEST, detail)

    async def _publish(
        self, sender: str, alarms: list[Alarm] | tuple[()], refusals: list[Refusal] | tuple[Refusal]
    ) -> None:
        """Return once it is confirmed. Raises Answered."""
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[str] = loop.create_future()

        def settle(problem: str) -> None:
            if not confirmed.done():
                confirmed.set_result(problem)

        def answered(problem: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, problem)

        problem = self._publisher.submit(Work(sender, alarms, refusals, answered))
        if not problem:
            wait_s = self._parts[0].answer_timeout.seconds
            self.unconfirmed += 1
            try:
                problem = await asyncio.wait_for(confirmed, wait_s)
            except asyncio.TimeoutError:
                problem = f"NATS has not confirmed it within {wait_s:g} s"
            finally:
                self.unconfirmed -= 1
        if problem:
            raise Answered(HTTPStatus.SERVICE_UNAVAILABLE, problem)

    # -- what is no alert

    def _challenge(self, scope: Mapping[str, Any]) -> dict[str, str]:
        token = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("crc_token")
        if token is None:
            raise Answered(HTTPStatus.METHOD_NOT_ALLOWED, "alerts are sent with POST")
        answer = self._parts[2].answer_challenge(token)
        if answer is None:
            raise Answered(HTTPStatus.NOT_FOUND, "[http] netdata_secret_file is not set")
        return answer

    async def _page(self, scope: Mapping[str, Any], send: Send) -> None:
        pages: dict[str, Callable[[], Page]] = {
            "healthz": self._healthz,
            "readyz": self._readyz,
            "metrics": self._metrics,
        }
        page = pages.get(scope["path"].strip("/"))
        if page is None or scope["method"] not in ("GET", "HEAD"):
            known = ", ".join(f"/{one}" for one in (*SENDERS, *pages))
            await _answer(send, HTTPStatus.NOT_FOUND, f"there are {known}\n")
            return
        status, text, kind = page()
        await _answer(send, status, text, kind)

    def _healthz(self) -> Page:
        return _health(self._liveness_failures())

    def _readyz(self) -> Page:
        return _health([*self._liveness_failures(), *self.readiness_failures])

    def _metrics(self) -> Page:
        return HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST.encode()


def _health(failures: list[str]) -> Page:
    if failures:
        return HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(failures) + "\n", TEXT_TYPE
    return HTTPStatus.OK, "ok\n", TEXT_TYPE


def _labels_of(query: bytes) -> dict[str, str]:
    """Those of the request's address, such as ``?user=ada``."""
    try:
        pairs = parse_qsl(query.decode("ascii"), max_num_fields=MAX_QUERY_LABELS, errors="strict")
    except ValueError:
        raise Answered(HTTPStatus.BAD_REQUEST, "the address has no such query") from None
    return {name: value for name, value in pairs if len(value) <= MAX_QUERY_CHARS}


async def _answer(
    send: Send, status: HTTPStatus, body: Mapping[str, Any] | str | bytes, kind: bytes = TEXT_TYPE
) -> None:
    if isinstance(body, Mapping):
        body, kind = orjson.dumps(body), JSON_TYPE
    data = body.encode("utf-8", "replace") if isinstance(body, str) else body
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(data)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Bearer realm="alarmdigest"'))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", RETRY_AFTER_S))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": data})
