"""A book and its rows: what it hands over is all of it, and reading that back changes nothing.

``Books`` feeds routed records to the books of one service without router and threads; a dict of
rows is its store. Clamping, which is the router's, is done here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from histories import START, History, histories
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import RETENTION_NS, SKEW_NS, Digest, Event, Forget, Message, Model, Request, Status
from support.core import SECRET, read_digest
from support.records import EVENT, FORGET, REQUEST, Outgoing, Routed, origin, pack, unpack_outgoing
from support.scale import cases

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.store.one_user import alarms_in
from alarmdigest.wire.buckets import bucket_of

Rows = dict[bytes, bytes]

KEY_BYTES = 22
MAX_VALUE_BYTES = 4000
STREAM = b"ALARMS"
EVERY_SLOT = 2**32


class Books:
    """The books of one service, and the store that holds what they have handed over."""

    def __init__(
        self, workers: int = 1, rows: Rows | None = None, split_bytes: int = 16 * 1024
    ) -> None:
        self.rows: Rows = {} if rows is None else rows
        self.deleted: set[bytes] = set()
        self._split_bytes = split_bytes
        self.restart(workers)

    def restart(self, workers: int) -> None:
        """Forget all but the store, and begin anew from it."""
        self.books = [
            AlarmBook(
                retention_ns=RETENTION_NS,
                split_bytes=self._split_bytes,
                secret=SECRET,
                stream=STREAM,
            )
            for _ in range(workers)
        ]
        for key, value in self.rows.items():
            bucket = int.from_bytes(key[:2], "big")
            self.books[bucket % workers].load_rows(packed({key: value}))

    def apply(self, *messages: tuple[Message, int]) -> list[Outgoing]:
        """Merge messages with their arrivals; the digests made, worker by worker."""
        routed: list[list[Routed]] = [[] for _ in self.books]
        for message, arrival in messages:
            bucket = bucket_of(message.user)
            routed[bucket % len(self.books)].append(as_routed(message, arrival, bucket))
        made = []
        for book, records in zip(self.books, routed, strict=True):
            batch, position = pack(records), 0
            while position < len(batch):
                outgoing, position = book.merge(batch, position)
                made += unpack_outgoing(outgoing)
        return made

    def forget_what_came_by(self, user: str, arrival: int) -> None:
        """As the message is routed that is read again."""
        bucket = bucket_of(user)
        record = Routed(FORGET, user.encode(), b"", 0, arrival, arrival, bucket)
        self.books[bucket % len(self.books)].merge(pack([record]))

    def take(self, most_bytes: int = 1024 * 1024) -> Rows:
        """Let the store follow; what came, an empty value being a deletion."""
        taken: Rows = {}
        for book in self.books:
            while part := book.take_rows(most_bytes):
                for key, value in unpacked(part).items():
                    assert key not in taken, "a block is dirty once"
                    taken[key] = value
            assert book.take_rows() == b""
        for key, value in taken.items():
            if value:
                self.rows[key] = value
            else:
                assert key in self.rows, "what was never written need not be deleted"
                del self.rows[key]
        assert len(self.rows) == sum(book.block_count for book in self.books)
        return taken

    def sweep(self, now_ns: int, most: int = EVERY_SLOT) -> int:
        return sum(book.sweep(now_ns, most) for book in self.books)

    @property
    def alarms(self) -> int:
        return sum(book.alarm_count for book in self.books)

    @property
    def active_and_due(self) -> tuple[int, int]:
        return (
            sum(book.active_count for book in self.books),
            sum(book.due_count for book in self.books),
        )

    @property
    def users(self) -> int:
        return sum(book.user_count for book in self.books)


def as_routed(message: Message, arrival: int, bucket: int) -> Routed:
    """What the router makes of a message; a request's origin follows from its arrival."""
    user = message.user.encode()
    if isinstance(message, Forget):
        return Routed(FORGET, user, b"", 0, 0, arrival, bucket)
    if isinstance(message, Request):
        place = origin(arrival - START + 1, arrival)
        return Routed(REQUEST, user, place, 0, 0, arrival, bucket)
    time_ns = min(message.changed_at, arrival + SKEW_NS)
    return Routed(
        EVENT, user, message.alarm.encode(), message.status.value, time_ns, arrival, bucket
    )


def packed(rows: Rows) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + key + value for key, value in rows.items())


def unpacked(data: bytes) -> Rows:
    rows: Rows = {}
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        start = position + 4 + KEY_BYTES
        position = start + length
        assert position <= len(data)
        rows[data[start - KEY_BYTES : start]] = data[start:position]
    return rows


def siphash13(data: bytes) -> int:
    """SipHash-1-3 with an all-zero key, from the published algorithm."""
    mask = 2**64 - 1
    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]

    def turn(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            for a, b, bits in ((0, 1, 13), (2, 3, 16)):
                v[a] = (v[a] + v[b]) & mask
                v[b] = turn(v[b], bits) ^ v[a]
            v[0] = turn(v[0], 32)
            for a, b, bits in ((2, 1, 17), (0, 3, 21)):
                v[a] = (v[a] + v[b]) & mask
                v[b] = turn(v[b], bits) ^ v[a]
            v[2] = turn(v[2], 32)

    whole = len(data) & ~7
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for place in range(0, whole + 8, 8):
        word = int.from_bytes((data[:whole] + last)[place : place + 8], "little")
        v[3] ^= word
        rounds(1)
        v[0] ^= word
    v[2] ^= 255
    rounds(3)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sealed(key: bytes, value: bytes) -> bytes:
    """A value with the checksum that belongs to it."""
    return value + struct.pack("<Q", siphash13(key + value))


def read_value(key: bytes, value: bytes) -> tuple[bytes, list[tuple[int, int, int, int, bytes]]]:
    """A row as row_codec.pxd describes it: its user, and its alarms as (times…, states, id)."""
    version, user_len, count = struct.unpack_from("<BHH", value)
    assert version == 1
    position = 5 + user_len
    user = value[5:position]
    assert key[:2] == bucket_of(user.decode()).to_bytes(2, "big")
    assert key[2:18] == hashlib.blake2b(user, digest_size=16).digest()
    alarms = []
    for _ in range(count):
        latest, sent, arrived, length, states = struct.unpack_from("<qqqHB", value, position)
        position += 27 + length
        alarms.append((latest, sent, arrived, states, value[position - length : position]))
    assert value == sealed(key, value[:position])
    return user, alarms


def warning(user: str, alarm: str, time_ns: int = 1) -> Event:
    return Event(user, alarm, Status.WARNING, time_ns)


def cleared(user: str, alarm: str, time_ns: int = 2) -> Event:
    return Event(user, alarm, Status.CLEARED, time_ns)


# -- whatever happens, and wherever a service ends ------------------------------------------------


def by_user(outgoing: list[Outgoing]) -> dict[str, list[tuple[bytes, bytes]]]:
    """Headers and bodies in order, user by user: workers stand in no order."""
    users: dict[str, list[tuple[bytes, bytes]]] = {}
    for one in outgoing:
        users.setdefault(read_digest(one.body).user, []).append((one.headers, one.body))
    return users


def check_history(history: History, random: Random) -> None:
    """Run it with and without restarts and sweeps: alike, and like the model."""
    model = Model()
    workers = random.choice([1, 1, 2, 3, 12])
    lasting, restarted = Books(), Books(workers)
    # What came since the last checkpoint: it is read again after a restart.
    since: list[tuple[Message, int]] = []
    expected: list[Digest] = []
    plain: list[Outgoing] = []
    made: list[Outgoing] = []
    for message, arrival in history:
        digest = model.apply(message, arrival)
        expected += [] if digest is None else [digest]
        plain += lasting.apply((message, arrival))
        made += restarted.apply((message, arrival))
        since.append((message, arrival))
        what = random.random()
        if what < 0.2:
            restarted.sweep(arrival, random.choice([1, 20, EVERY_SLOT]))
        elif what < 0.5:
            restarted.take(random.choice([1, 100, 1024 * 1024]))
            since = []
        if what < 0.1 or 0.4 < what < 0.55:
            assert restarted.active_and_due == (model.active_count, model.due_count)
            restarted.restart(random.choice([1, 2, 3, 12]))
            again = by_user(restarted.apply(*since))
            before = by_user(made)
            for user, copies in again.items():
                # Nothing that was not published already, and under the same ids.
                assert before[user][-len(copies) :] == copies
    assert by_user(made) == by_user(plain)
    for books in (lasting, restarted):
        assert books.active_and_due == (model.active_count, model.due_count)
    digests: dict[str, list[Digest]] = {}
    for one in expected:
        digests.setdefault(one.user, []).append(one)
    assert {
        user: [read_digest(body) for _, body in bodies] for user, bodies in by_user(made).items()
    } == digests
    for key, value in restarted.rows.items():
        read_value(key, value)


@settings(
    max_examples=cases(200, 20_000), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(histories(min_size=5), st.integers(0, 2**32 - 1))
def test_a_book_made_from_rows_goes_on_as_the_one_that_wrote_them(
    history: History, seed: int
) -> None:
    random = Random(seed)
    for _ in range(5):
        check_history(history, random)


@settings(max_examples=cases(150, 10_000), deadline=None)
@given(histories(min_size=5), st.integers(0, 2**32 - 1))
def test_rows_of_a_restarted_book_are_those_of_one_that_went_on(
    history: History, seed: int
) -> None:
    """Not only the digests agree: all that is kept does, so nothing is lost that matters later."""
    random = Random(seed)

    def content(books: Books) -> dict[bytes, set[tuple[int, int, int, int, bytes]]]:
        users: dict[bytes, set[tuple[int, int, int, int, bytes]]] = {}
        for key, value in books.rows.items():
            user, alarms = read_value(key, value)
            for alarm in alarms:
                assert alarm not in users.setdefault(user, set())
                users[user].add(alarm)
        return users

    lasting, restarted = Books(), Books()
    for message, arrival in history:
        for books in (lasting, restarted):
            books.apply((message, arrival))
        if random.random() < 0.3:
            restarted.take()
            restarted.restart(random.choice([1, 3]))
    lasting.take()
    restarted.take()
    assert content(restarted) == content(lasting)


def test_the_order_of_rows_does_not_matter_nor_how_they_are_cut() -> None:
    books = Books()
    for user in "uvw":
        books.apply(*((warning(user, f"{n:0>200}"), START + n) for n in range(100)))
    rows = list(books.take().items())
    asked = [(Request(user), START + 1000) for user in "uvw"]
    expected = by_user(Books(rows=dict(rows)).apply(*asked))
    assert (
        sum(len(read_digest(body).entries) for one in expected.values() for _, body in one) == 300
    )
    for seed in range(20):
        Random(seed).shuffle(rows)
        again = Books()
        again.books[0].load_rows(packed(dict(rows)))
        assert by_user(again.apply(*asked)) == expected


def test_an_alarm_that_is_due_is_in_the_first_digest_after_loading_and_not_in_the_next() -> None:
    books = Books()
    books.apply((warning("u", "a"), START), (warning("u", "b"), START + 1))
    books.apply((Request("u"), START + 2), (Event("u", "a", Status.CRITICAL, 2), START + 3))
    books.take()
    books.restart(3)
    [one] = books.apply((Request("u"), START + 4), (Request("u"), START + 5))
    assert [entry.alarm for entry in read_digest(one.body).entries] == ["a"]


# -- what is dirty --------------------------------------------------------------------------------


def test_a_batch_of_repeats_and_stale_events_makes_nothing_dirty() -> None:
    books = Books()
    history: list[tuple[Message, int]] = [
        (Event("u", "a", Status.CRITICAL, 5), START),
        (Request("u"), START + 1),
        (Event("u", "a", Status.WARNING, 6), START + 2),
    ]
    books.apply(*history)
    assert len(books.take()) == 1
    for message in (
        Event("u", "a", Status.WARNING, 6),
        Event("u", "a", Status.CRITICAL, 5),
        Event("u", "a", Status.CLEARED, 4),
        Event("u", "a", Status.CLEARED, 6),  # changed, which it was already
    ):
        books.apply((message, START + 3))
        assert books.take() == {}, message


@pytest.mark.parametrize(
    "news",
    [
        warning("u", "new"),
        Event("u", "a", Status.WARNING, 6),
        Event("u", "a", Status.CRITICAL, 6),  # no change, but its time
        Request("u"),
    ],
)
def test_whatever_changes_what_is_kept_makes_its_block_dirty(news: Message) -> None:
    books = Books()
    books.apply((Event("u", "a", Status.CRITICAL, 5), START), (warning("v", "a"), START + 1))
    books.take()
    books.apply((news, START + 2))
    [(key, value)] = books.take().items()
    assert read_value(key, value)[0] == b"u"


def test_a_late_event_that_makes_an_alarm_changed_makes_its_block_dirty() -> None:
    books = Books()
    books.apply(
        (Event("u", "a", Status.CRITICAL, 1), START),
        (Request("u"), START + 1),
        (Event("u", "a", Status.CRITICAL, 3), START + 2),
    )
    books.take()
    books.apply((cleared("u", "a", 2), START + 3))
    assert len(books.take()) == 1


def test_what_is_loaded_is_clean() -> None:
    books = Books()
    books.apply(*((warning(f"user {n}", "a"), START + n) for n in range(100)))
    assert len(books.take()) == 100
    books.restart(2)
    assert books.take() == {}
    assert (books.users, books.alarms) == (100, 100)


def test_only_the_blocks_that_changed_are_taken() -> None:
    books = Books()
    books.apply(*((warning("u", f"{n:0>36}"), START + n) for n in range(1_000)))
    first = books.take()
    assert len(first) > 10
    books.apply((Event("u", f"{7:0>36}", Status.CRITICAL, 9), START + 2_000))
    [key] = books.take()
    assert key in first


def test_rows_come_in_pieces_of_about_the_size_that_is_asked_for() -> None:
    books = Books()
    books.apply(*((warning(f"user {n}", "a" * 1000), START + n) for n in range(200)))
    pieces = []
    while piece := books.books[0].take_rows(10_000):
        pieces.append(piece)
    assert len(pieces) > 15
    assert all(10_000 <= len(piece) < 10_000 + MAX_VALUE_BYTES + 26 for piece in pieces[:-1])
    assert sum(len(unpacked(piece)) for piece in pieces) == 200


# -- the stored form ------------------------------------------------------------------------------


def test_a_row_is_what_its_description_says() -> None:
    books = Books()
    books.apply((Event("üser", "älarm", Status.CRITICAL, 5), START), (Request("üser"), START + 1))
    books.apply((cleared("üser", "älarm", 7), START + 2), (warning("üser", "b", 6), START + 3))
    [(key, value)] = books.take().items()
    assert len(key) == KEY_BYTES
    assert key[18:] == bytes(4)
    user, alarms = read_value(key, value)
    assert user == "üser".encode()
    assert sorted(alarms) == [
        (6, 0, START + 3, 1 | 3 << 2, b"b"),
        (7, 5, START + 2, 0 | 2 << 2 | 16, "älarm".encode()),
    ]


def test_the_hash_in_a_key_is_blake2b_whatever_the_length_of_the_id() -> None:
    users = ["".join(chr(97 + (n * 7 + i) % 26) for i in range(n)) for n in range(1, 1025)]
    books = Books()
    books.apply(*((warning(user, "a"), START) for user in users))
    found = [read_value(key, value)[0].decode() for key, value in books.take().items()]
    assert sorted(found) == sorted(users)


def test_a_block_fills_to_4000_bytes_and_not_one_more() -> None:
    """From 13 + 1 bytes without alarms, 27 and the id for each."""
    for length, expected in ((4000 - 14 - 3 * (27 + 1000) - 27, 1), (879, 2)):
        books = Books()
        ids = [*(letter * 1000 for letter in "abc"), "d" * length]
        books.apply(*((warning("u", alarm), START) for alarm in ids))
        rows = books.take()
        assert len(rows) == expected
        assert sum(len(read_value(*row)[1]) for row in rows.items()) == 4
        assert max(map(len, rows.values())) == (4000 if expected == 1 else 3095)


@settings(max_examples=cases(50, 2_000), deadline=None)
@given(st.lists(st.integers(1, 1024), min_size=1, max_size=200), st.integers(1, 1024))
def test_no_value_exceeds_4000_bytes(lengths: list[int], user_len: int) -> None:
    books = Books()
    alarms = {f"{n}".ljust(length, "x")[:1024] for n, length in enumerate(lengths)}
    books.apply(*((warning("u" * user_len, alarm), START) for alarm in alarms))
    rows = books.take()
    assert all(len(value) <= MAX_VALUE_BYTES for value in rows.values())
    numbers = sorted(int.from_bytes(key[18:], "big") for key in rows)
    assert numbers == list(range(len(rows)))
    found = [
        alarm[4].decode() for key, value in rows.items() for alarm in read_value(key, value)[1]
    ]
    assert sorted(found) == sorted(alarms)


def test_a_new_block_never_takes_the_number_of_another() -> None:
    """Not even when the highest number there is has been used."""
    filler = "x" * 1000
    for first in (7, 2**32 - 2, 2**32 - 1):
        books = Books()
        books.apply(*((warning("u", f"{n}{filler}"), START) for n in range(9)))
        moved = {}
        for (key, value), number in zip(books.take().items(), (0, 1, first), strict=True):
            new_key = key[:18] + number.to_bytes(4, "big")
            moved[new_key] = sealed(new_key, value[:-8])
        books = Books(rows=moved)
        books.apply(*((warning("u", f"{n}{filler}"), START) for n in range(10, 40)))
        books.take()
        numbers = {int.from_bytes(key[18:], "big") for key in books.rows}
        assert len(numbers) == len(books.rows) == 13
        # The highest is never given, so that there is a next one to be kept in 32 bits.
        assert (first + 1 in numbers) == (first + 1 < 2**32 - 1)


# -- ids of digests -------------------------------------------------------------------------------


def expected_headers(stream: bytes, place: bytes, part: int, body: bytes) -> bytes:
    """The headers of a digest: where its request stands, and the id as the last line."""
    content = stream + b"\0" + place + struct.pack("<I", part) + body
    hashed = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    request = b"Alarmdigest-Request: %d %d\r\n" % struct.unpack("<Qq", place)
    return request + b"Nats-Msg-Id: %b\r\n" % hashed


@pytest.mark.parametrize("stream_len", [0, 1, 6, 86, 87, 99, 100, 101, 127, 128, 300])
def test_the_id_of_a_digest_is_made_of_stream_request_part_and_payload(stream_len: int) -> None:
    stream = bytes(97 + n % 26 for n in range(stream_len))
    book = AlarmBook(
        retention_ns=0, split_bytes=16 * 1024, secret=SECRET, publish_empty=True, stream=stream
    )
    records, places = [], []
    for length in range(0, 400, 1 if stream_len == 6 else 7):
        if length:
            records.append(Routed(EVENT, b"u", b"x" * length, 1, 1, START))
        places.append(origin(2**63 + length, -length))
        records.append(Routed(REQUEST, b"u", places[-1], 0, 0, START))
    made, _ = book.merge(pack(records))
    digests = unpack_outgoing(made)
    assert len({one.headers for one in digests}) == len(digests) == len(places)
    for one, place in zip(digests, places, strict=True):
        assert one.headers == expected_headers(stream, place, 0, one.body)


def test_each_part_of_a_split_digest_has_an_id_of_its_own_and_the_size_it_had_without() -> None:
    events = [Routed(EVENT, b"u", b"%0*d" % (100 + n % 50, n), 1, n, START) for n in range(900)]
    bodies = []
    for place in (b"", origin(5, START)):
        book = AlarmBook(retention_ns=0, split_bytes=16 * 1024, secret=SECRET, stream=STREAM)
        made, _ = book.merge(pack([*events, Routed(REQUEST, b"u", place, 0, 0, START)]))
        parts = unpack_outgoing(made)
        assert len(parts) > 5
        bodies.append([one.body for one in parts])
        for number, one in enumerate(parts):
            expected = expected_headers(STREAM, place, number, one.body) if place else b""
            assert one.headers == expected
    assert bodies[0] == bodies[1]


def test_a_user_who_is_forgotten_once_more_keeps_what_came_since() -> None:
    """A stream that was put back is read again: such a message says up to which arrival."""
    books = Books()
    forget = (Forget("u"), START + 1)
    long = "x" * 1000  # several blocks
    books.apply((warning("u", "a"), START), (warning("u", long + "b"), START), forget)
    assert books.take() == {}
    books.apply((warning("u", "a"), START + 2), (Request("u"), START + 3))
    books.apply(*((warning("u", f"{long}{n}"), START + 4) for n in range(10)))
    books.take()
    books.apply((warning("u", "old"), START))
    books.forget_what_came_by("u", START + 1)
    assert (books.alarms, books.active_and_due) == (11, (11, 10))
    books.take()
    books.restart(1)
    assert (books.alarms, books.active_and_due) == (11, (11, 10))
    # One that is not read again ends everything, whatever the clocks say.
    books.apply((Forget("u"), START))
    assert (books.alarms, books.active_and_due) == (0, (0, 0))
    books.take()
    assert books.rows == {}


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("top", [1, 3, 1000])
def test_the_topmost_users_are_those_of_a_sort(order: int, top: int) -> None:
    """In parts of any size, with users that come and go between the parts of another listing."""
    dice = Random(order * 7 + top)
    books = Books()
    book = books.books[0]
    arrival = START
    for _ in range(6):
        for _ in range(150):
            arrival += 1
            user, alarm = f"u{dice.randrange(120)}", f"a{dice.randrange(6)}"
            what = dice.choice([warning, warning, cleared])
            news = what(user, alarm, arrival - dice.randrange(3))
            message: Message = Request(user) if dice.random() < 0.3 else news
            books.apply((message, arrival))
            if dice.random() < 0.05:
                arrival += 1
                books.apply((Forget(user), arrival))
        for only_due, only_active in ((False, False), (True, False), (False, True)):
            listed, found = list_all(book, dice, order, top, only_due, only_active)
            known = known_users(book, only_due=only_due, only_active=only_active)
            assert found == len(known)
            best = sorted(known, key=lambda user: rank(user, order))[:top]
            assert [rank(one, order) for one in listed[:top]] == [rank(one, order) for one in best]


UserCounts = tuple[int, int, int, int, int]


def rank(user: UserCounts, order: int) -> tuple[int, int]:
    """Least first: alarms, active, critical, due, since."""
    alarms, active, _critical, due, since = user
    wait = since if due else 2**63
    return ({0: wait, 1: -due, 2: -active, 3: -alarms}[order], wait)


def list_all(
    book: AlarmBook, dice: Random, order: int, top: int, only_due: bool, only_active: bool
) -> tuple[list[UserCounts], int]:
    users: dict[bytes, UserCounts] = {}
    slot, total, floor = 0, 0, None
    while True:
        lines, found, slot, least = book.list_users(
            slot,
            dice.randrange(1, 60),
            order=order,
            top=top,
            only_due=only_due,
            only_active=only_active,
            floor=floor,
        )
        floor, total, position = least or floor, total + found, 0
        while position < len(lines):
            alarms, active, critical, due, since, length = struct.unpack_from(
                "=IIIIqH", lines, position
            )
            position += 26
            name = lines[position : position + length]
            assert name not in users
            users[name] = (alarms, active, critical, due, since)
            position += length
        if slot == 0:
            return sorted(users.values(), key=lambda user: rank(user, order)), total


def known_users(book: AlarmBook, *, only_due: bool, only_active: bool) -> list[UserCounts]:
    """By their rows."""
    found = []
    for number in range(120):
        alarms = alarms_in(book.rows_of(b"u%d" % number))
        due = [one for one in alarms if one.due]
        active = [one for one in alarms if one.status != "CLEARED"]
        if alarms and (due or not only_due) and (active or not only_active):
            since = min((one.arrived_ns for one in due), default=0)
            critical = sum(one.status == "CRITICAL" for one in alarms)
            found.append((len(alarms), len(active), critical, len(due), since))
    return found


def test_who_waits_waits_since_the_first_news() -> None:
    """A newer event of an alarm that is due already does not count anew."""
    books = Books()

    def since() -> int:
        [alarm] = alarms_in(books.books[0].rows_of(b"u"))
        return alarm.arrived_ns - START

    books.apply((Event("u", "a", Status.WARNING, START), START))
    books.apply((Event("u", "a", Status.WARNING, START + 1), START + 5))
    books.apply((Event("u", "a", Status.CRITICAL, START + 2), START + 6))
    assert since() == 0
    books.apply((Request("u"), START + 7), (Event("u", "a", Status.CRITICAL, START + 8), START + 8))
    assert since() == 8  # not due: that of its latest event
    books.apply((Event("u", "a", Status.CLEARED, START + 4), START + 9))
    assert since() == 9  # due by a late one
    books.apply((Event("u", "a", Status.CLEARED, START + 10), START + 10))
    assert since() == 10


# -- forgetting -----------------------------------------------------------------------------------

LATER = START + RETENTION_NS + 1_000_000


def test_a_sweep_removes_what_is_cleared_and_past_its_retention_and_nothing_else() -> None:
    books = Books()
    books.apply((cleared("u", "old"), START), (warning("u", "active"), START))
    books.apply((cleared("u", "young"), START + 1), (cleared("v", "old"), START))
    assert books.sweep(START + RETENTION_NS) == 0
    assert books.sweep(START + RETENTION_NS + 1) == 2
    assert (books.alarms, books.users) == (2, 1)
    assert books.books[0].counters["swept"] == 2
    [value] = books.take().values()
    assert len(value) == 13 + 1 + (27 + 6) + (27 + 5)


def test_an_emptied_block_gives_a_deletion_and_then_its_user_is_gone() -> None:
    books = Books()
    books.apply((cleared("u", "a"), START), (cleared("v", "a"), START), (warning("v", "b"), START))
    before = books.take()
    assert books.sweep(LATER) == 2
    assert sum(book.block_count for book in books.books) == 1
    assert books.users == 2
    taken = books.take()
    assert taken.keys() == before.keys()
    assert [read_value(key, before[key])[0] for key, value in taken.items() if not value] == [b"u"]
    assert books.users == 1
    books.apply((warning("u", "a"), LATER))
    assert len(books.take()) == 1


def test_what_came_and_went_between_two_checkpoints_leaves_no_row() -> None:
    books = Books()
    books.apply(*((cleared(f"u{n % 10}", f"{n}"), START) for n in range(1_000)))
    assert books.sweep(LATER) == 1_000
    assert (books.alarms, books.users) == (0, 0)
    assert books.take() == {}


def test_an_emptied_block_that_is_filled_again_is_written_and_not_deleted() -> None:
    books = Books()
    books.apply((cleared("u", "a"), START))
    [key] = books.take()
    books.sweep(LATER)
    books.apply((warning("u", "b"), LATER))
    [(again, value)] = books.take().items()
    assert (again, read_value(again, value)[1][0][4]) == (key, b"b")


def test_a_sweep_goes_on_where_the_last_one_ended_and_begins_again_at_the_end() -> None:
    books = Books()
    books.apply(*((cleared("u", f"{n}"), START) for n in range(1_000)))
    removed = [books.sweep(LATER, 64) for _ in range(2048 // 64)]
    assert sum(removed) == 1_000
    assert max(removed) < 200
    books.apply((cleared("u", "again"), START))
    assert sum(books.sweep(LATER, 64) for _ in range(2048 // 64)) == 1
    assert books.sweep(LATER, 0) == 0


def test_alarms_that_nobody_asked_about_are_forgotten_too() -> None:
    """They stand in the list of what the next digest looks at, among others that are due."""
    books = Books()
    for n in range(100):
        books.apply((warning("u", f"{n}"), START))
        if n % 3:
            books.apply((cleared("u", f"{n}"), START))
    assert books.sweep(LATER) == 66
    # New alarms take the places of those that went: were these still listed, the list would break.
    fresh = [f"{n}+" for n in range(10, 40)]
    books.apply(*((warning("u", alarm), LATER) for alarm in fresh))
    expected = sorted([*(f"{n}" for n in range(0, 100, 3)), *fresh])
    [one] = books.apply((Request("u"), LATER))
    assert [entry.alarm for entry in read_digest(one.body).entries] == expected
    assert books.apply((Request("u"), LATER)) == []


def test_a_block_that_got_room_takes_the_next_new_alarm() -> None:
    books = Books()
    for n in range(40):
        event = cleared if n == 5 else warning
        books.apply((event("u", f"{n:0>500}"), START + n))
    books.take()
    [roomy] = [
        key
        for key, value in books.rows.items()
        if any(alarm[4].endswith(b"05") for alarm in read_value(key, value)[1])
    ]
    assert books.sweep(LATER) == 1
    books.apply((warning("u", "y" * 500), LATER))
    assert list(books.take()) == [roomy]


def test_whatever_is_removed_all_others_are_still_found() -> None:
    """Removal moves what stands behind; a search that stops too early would add alarms twice."""
    random = Random(4)
    books, now = Books(), START
    alive: set[str] = set()
    for _ in range(60):
        for name in random.sample(range(3_000), 400):
            event = random.choice([warning, cleared])
            books.apply((event("u", f"{name}", now), now))
            (alive.add if event is warning else alive.discard)(f"{name}")
            now += 1
        if random.random() < 0.5:
            now += RETENTION_NS + 1
        books.sweep(now, random.choice([100, EVERY_SLOT]))
    now += RETENTION_NS + 1
    books.sweep(now)
    assert books.alarms == len(alive)
    books.take()
    found = [alarm[4].decode() for row in books.rows.items() for alarm in read_value(*row)[1]]
    assert sorted(found) == sorted(alive)


CHURN = """
import sys
sys.path[:0] = {path!r}
from model import RETENTION_NS
from state.test_alarmbook_costs import anonymous_kib
from state.test_alarmbook_rows import Books, START, Request, cleared, warning

books = Books()
now, sizes = START, []
for turn in range(12):
    for step in range(20):
        events = []
        for n in range(500):
            user, alarm = f"user-{{turn}}-{{step}}-{{n % 50}}", f"{{n:0>36}}"
            events += [(warning(user, alarm), now), (cleared(user, alarm), now)]
        books.apply(*events)
        if {taking}:
            books.take()
        now += RETENTION_NS // 4
        books.sweep(now)
    sizes.append(anonymous_kib())
assert books.alarms < 5_000, books.alarms
print(max(sizes[6:]) - sizes[5])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells RssAnon")
@pytest.mark.parametrize("taking", [True, False])
def test_memory_does_not_grow_when_alarms_and_users_come_and_go_for_ever(taking: bool) -> None:
    """60,000 alarms of 6,000 users go after the first half: about 6 MiB if nothing were freed.

    Also in a service without a store, where no rows are ever taken.
    """
    program = CHURN.format(path=sys.path, taking=taking)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1024


# -- damage ---------------------------------------------------------------------------------------


def refusal(data: bytes) -> str:
    """What a new book says of these rows; the text of ValueError, whose like must be raised."""
    book = AlarmBook(retention_ns=0, split_bytes=16 * 1024, secret=SECRET)
    with pytest.raises(ValueError, match=r"^bucket (\d+|unknown): the row at byte \d+ ") as caught:
        book.load_rows(data)
    return str(caught.value)


def small_row() -> tuple[bytes, bytes]:
    books = Books()
    books.apply(
        (warning("u", "a", 5), START), (Request("u"), START + 1), (cleared("u", "b"), START)
    )
    [row] = books.take().items()
    return row


def test_every_single_bit_that_flips_is_found() -> None:
    whole = packed(dict([small_row()]))
    AlarmBook(retention_ns=0, split_bytes=16 * 1024, secret=SECRET).load_rows(whole)
    for place in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        refusal(bytes(damaged))


def test_rows_that_were_cut_off_are_refused() -> None:
    whole = packed(dict([small_row()]))
    for end in range(1, len(whole)):
        refusal(whole[:end])
        refusal(whole + whole[:end])
        refusal(whole[end:])


@settings(max_examples=cases(500, 50_000), deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 300))
def test_random_bytes_are_refused(noise: bytes, length: int) -> None:
    refusal(noise)
    refusal(struct.pack("<I", length) + noise)
    refusal(struct.pack("<I", max(len(noise) - KEY_BYTES, 0)) + noise)


@settings(max_examples=cases(1_000, 100_000), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damage_with_a_right_checksum_never_leads_out_of_bounds(seed: int) -> None:
    """Whatever is accepted then is written again as it was read."""
    random = Random(seed)
    key, value = small_row()
    body = bytearray(value[:-8])
    for _ in range(random.choice([1, 1, 2, 5])):
        body[random.randrange(1, len(body))] = random.choice([0, 1, 255, random.randrange(256)])
    if random.random() < 0.3:
        del body[random.randrange(5, len(body)) :]
    forged = {key: sealed(key, bytes(body))}
    book = AlarmBook(retention_ns=0, split_bytes=16 * 1024, secret=SECRET)
    with contextlib.suppress(ValueError):
        book.load_rows(packed(forged))
    book.sweep(2**63 - 1, EVERY_SLOT)
    book.merge(pack([Routed(REQUEST, b"u", b"", 0, 0, 2**63 - 1)]))
    for one in unpacked(book.take_rows()).items():
        if one[1]:
            read_value(*one)


def test_what_is_wrong_is_said() -> None:
    key, value = small_row()
    body = value[:-8]

    def said(new_key: bytes, new_body: bytes) -> str:
        return refusal(packed({new_key: sealed(new_key, new_body)}))

    damaged = value[:-1] + bytes([value[-1] ^ 1])
    other = hashlib.blake2b(b"v", digest_size=16).digest()
    states = 5 + 1 + 26
    for text, expected in [
        (refusal(packed({key: damaged})), "checksum"),
        (refusal(packed({key: b""})), "no value"),
        (refusal(packed({key: value})[:-1]), "end within"),
        (refusal(packed({key: value[:20]})), "size"),
        (refusal(packed({key: value + bytes(4000)})), "size"),
        (said(key, b"\2" + body[1:]), "version"),
        (said(key, body + b"\0"), "lengths"),
        (said(key, body[:3] + b"\0\0" + body[5:]), "lengths"),
        (said(key, body[:1] + b"\0\0" + body[3:]), "lengths"),
        (said(key, body[:3] + b"\3\0" + body[5:]), "lengths"),
        (said(key, body[:states] + b"\x03" + body[states + 1 :]), "status"),
        (said(key, body[:states] + b"\x20" + body[states + 1 :]), "status"),
        (said(key, body[:states] + b"\x1d" + body[states + 1 :]), "status"),
        (said(key[:2] + other + key[18:], body), "user"),
        (refusal(packed({key: value}) * 2), "another row"),
    ]:
        assert expected in text
        assert f"bucket {bucket_of('u')}:" in text


def test_rows_of_one_user_in_two_buckets_are_refused() -> None:
    key, value = small_row()
    moved = bytes([key[0], key[1] ^ 1]) + key[2:]
    rows = packed({key: value, moved: sealed(moved, value[:-8])})
    found = re.match(r"bucket (\d+): the row at byte (\d+) .*user", refusal(rows))
    assert found is not None
    assert (int(found[1]), int(found[2])) == (bucket_of("u") ^ 1, 26 + len(value))


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [-1, 2**64])
def test_a_sweep_of_no_possible_size_is_refused(most: int) -> None:
    with pytest.raises(OverflowError):
        Books().sweep(START, most)


@given(histories(), st.integers(1, 3))
def test_all_rows_are_handed_over_again_for_a_store_that_needs_them(
    history: History, workers: int
) -> None:
    """Those that were taken and those that were not, each once; and nothing else is changed."""
    books = Books(workers)
    for number, message in enumerate(history):
        books.apply(message)
        if number == len(history) // 2:
            books.take()
    for book in books.books:
        book.mark_all_changed()
        book.mark_all_changed()
    last = {key: value for key, value in books.take().items() if value}
    assert last == books.rows
    assert books.take() == {}
