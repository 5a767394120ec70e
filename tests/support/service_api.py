"""Questions of the NATS service API, asked by an independent client."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
from nats.aio.msg import Msg

from support.bus import Bus
from support.wait import eventually


def ask(bus: Bus, subject: str, body: bytes = b"") -> list[dict[str, Any]]:
    """All answers that come before a question that is asked behind it is answered, or nobody."""

    async def work() -> list[dict[str, Any]]:
        inbox = bus.client.new_inbox()
        answers: list[dict[str, Any]] = []

        async def keep(message: Msg) -> None:
            if message.data:  # else the server says that nobody listens
                answers.append(orjson.loads(message.data))

        subscription = await bus.client.subscribe(inbox, cb=keep)
        await bus.client.publish(subject, body, reply=inbox)
        await bus.client.flush()
        deadline = time.monotonic() + 0.3  # answers are not numbered: none or a second may come
        while not answers and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await bus.client.flush()
        await subscription.unsubscribe()
        return answers

    return bus.run(work())


def the_one(bus: Bus, subject: str) -> dict[str, Any]:
    """The answer of the only service there is, once it listens."""
    [answer] = eventually(lambda: ask(bus, subject), what=f"an answer to {subject}")
    return answer
