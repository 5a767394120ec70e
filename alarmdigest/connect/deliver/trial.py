"""One message that says it is a test, to the targets of one user, at once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from alarmdigest.connect.deliver.message import WARNING, AlarmLine, Message
from alarmdigest.connect.deliver.routes import Routes
from alarmdigest.connect.deliver.sender import send
from alarmdigest.connect.deliver.work import renderers_of

TEXT = "This is a test of alarmdigest deliver: nothing is wrong"


class Tried(NamedTuple):
    """``problem`` is empty where the target took it."""

    target: str
    problem: str


def try_targets(routes: Routes, user_id: str) -> Iterator[Tried]:
    """Each target of the user's routes, however little it wants. Raises SettingsError."""
    renderers = renderers_of(routes.messages)
    now = time.time_ns()
    line = AlarmLine("test", WARNING, now, name=TEXT, summary=TEXT, now=WARNING)
    message = Message(
        user_id,
        now,
        (f"test-{secrets.token_hex(8)}",),
        new=(line,),
        still_active=(),
        cleared=(),
        state_known=True,
    )
    for way in routes.ways(user_id):
        if way.problem:
            yield Tried(way.target.name, way.problem)
            continue
        letter = renderers.letter(message, way)
        subject = f"[test] {letter.rendered.subject}"
        marked = replace(letter, rendered=replace(letter.rendered, subject=subject))
        yield Tried(way.target.name, send(marked))
