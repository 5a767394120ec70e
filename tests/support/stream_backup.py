"""``nats stream backup`` and ``restore``, by JetStream's own requests."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from nats.aio.msg import Msg

from support.bus import Bus


class Backup(NamedTuple):
    """What the server sends of a stream, to be sent back to it."""

    config: dict[str, Any]
    state: dict[str, Any]
    chunks: list[bytes]


def backup_of(bus: Bus, stream: str) -> Backup:
    async def work() -> Backup:
        client = bus.client
        inbox = client.new_inbox()
        incoming = await client.subscribe(inbox)
        body = orjson.dumps({"deliver_subject": inbox})
        answer = _checked(await client.request(f"$JS.API.STREAM.SNAPSHOT.{stream}", body, 10))
        chunks = []
        while (message := await incoming.next_msg(10)).data:
            chunks.append(message.data)
            if message.reply:
                await message.respond(b"")
        await incoming.unsubscribe()
        return Backup(answer["config"], answer["state"], chunks)

    return bus.run(work())


def restore(bus: Bus, backup: Backup) -> None:
    """The stream must have been deleted."""

    async def work() -> None:
        client, name = bus.client, backup.config["name"]
        body = orjson.dumps({"config": backup.config, "state": backup.state})
        answer = _checked(await client.request(f"$JS.API.STREAM.RESTORE.{name}", body, 10))
        for chunk in backup.chunks:
            await client.request(answer["deliver_subject"], chunk, 10)
        _checked(await client.request(answer["deliver_subject"], b"", 10))

    bus.run(work())


def _checked(message: Msg) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(message.data)
    assert "error" not in answer, answer
    return answer
