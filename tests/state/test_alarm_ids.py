"""Ids of alarms that a book keeps in another form come out of it as they went in, and in order."""

from __future__ import annotations

import itertools
import json
from random import Random
from uuid import UUID

import pytest
from histories import START
from model import Event, Request, Status
from support.core import SECRET, Core, merged, read_digest

from alarmdigest._ext.alarmbook import AlarmBook

ZERO = str(UUID(int=0))


def uuids(count: int, seed: int) -> list[str]:
    random = Random(seed)
    return [str(UUID(int=random.getrandbits(128))) for _ in range(count)]


def nearly(uuid: str) -> list[str]:
    """Texts that differ from a UUID in a character, or in one more or less."""
    others = [uuid.upper(), uuid[:-1], uuid + "0", " " + uuid[1:], "{" + uuid[1:-1] + "}"]
    for place, character in itertools.product(range(36), "-/0:9@`agAFG\x00\x7f\xe9"):
        others.append(uuid[:place] + character + uuid[place + 1 :])
    return [one for one in others if one != uuid]


def in_digest(ids: list[str]) -> list[str]:
    """The alarms of one user, all changed at the same time, as a digest lists them."""
    core = Core()
    for one in ids:
        core.route_message(Event("u", one, Status.WARNING, 1), START)
    core.route_message(Request("u"), START)
    [body] = core.merge()
    return [entry.alarm for entry in read_digest(body).entries]


def by_bytes(ids: list[str]) -> list[str]:
    return sorted(set(ids), key=str.encode)


def test_what_is_like_a_uuid_and_what_is_one_are_different_alarms_in_the_order_of_their_bytes() -> (
    None
):
    ids = [one for uuid in [ZERO, *uuids(3, 1)] for one in [uuid, *nearly(uuid)]]
    Random(2).shuffle(ids)
    assert in_digest(ids) == by_bytes(ids)


def test_every_digit_in_every_place_comes_out_as_it_went_in() -> None:
    ids = [
        ZERO[:place] + digit + ZERO[place + 1 :]
        for place, digit in itertools.product(range(36), "0123456789abcdef")
        if ZERO[place] != "-"
    ]
    assert in_digest(ids) == by_bytes(ids)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_digest_is_in_order_however_its_alarms_came(shuffled: bool) -> None:
    ids = uuids(300, 3) + [f"alarm-{number}" for number in range(300)]
    if shuffled:
        Random(4).shuffle(ids)
    assert in_digest(ids) == by_bytes(ids)


def test_rows_hold_the_text_and_load_as_the_same_alarms() -> None:
    ids = [ZERO, *uuids(100, 5), *nearly(uuids(1, 6)[0])]
    core = Core()
    for one in ids:
        core.route_message(Event("u", one, Status.WARNING, 1), START)
    core.merge()
    rows = core.books[0].take_rows()
    assert all(one.encode() in rows for one in ids)
    other = AlarmBook(retention_ns=10**18, split_bytes=1 << 20, secret=SECRET[::-1])
    other.load_rows(rows)
    for one in ids:  # known: nothing is added
        core.route_message(Event("u", one, Status.CRITICAL, 2), START + 1)
    core.route_message(Request("u"), START + 2)
    [body] = merged(other, core.router.take(0))
    found = [entry["AlarmID"] for entry in json.loads(body)["ActiveAlarms"]]
    assert found == by_bytes(ids)
    assert other.alarm_count == len(set(ids))
