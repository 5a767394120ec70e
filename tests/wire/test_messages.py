"""Bodies are read as the contract says: by the compiled router, by `messages`, and by the model.

The three were written apart. Whatever one of them makes of a body, accepted or refused with a
reason, the other two must make of it as well.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import Any

import mmh3
import model
import orjson
import pytest
from histories import START, event_body, events, ids, request_body
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import EVENT, REQUEST, Routed, unpack
from support.scale import cases

from alarmdigest._ext.router import Router
from alarmdigest.wire import messages

HOUR_NS = 3600 * 10**9
NOON = 1_623_098_415 * 10**9

# So far ahead that only what stands for "beyond 64 bits" is clamped.
LATE_NS = 2**62 - 2**40
WIDE_SKEW_NS = 2**62

# (user, alarm, status, time), or the reason of a refusal.
Reading = tuple[bytes, bytes, int, int] | str


class Source:
    """A router with one worker that is fed bodies; ``refused`` holds the reasons in order."""

    def __init__(self, *, now_ns: int = LATE_NS, skew_ns: int = WIDE_SKEW_NS) -> None:
        self.refused: list[str] = []
        self.now_ns = now_ns
        self.router = Router(
            workers=1,
            buckets=4096,
            hash32=mmh3.hash,
            skew_ns=skew_ns,
            read_or_reject=self._read_odd,
        )

    def _read_odd(
        self, kind: int, payload: bytes, subject: bytes, _origin: object
    ) -> tuple[bytes, bytes, int, int] | None:
        assert subject == b"s"
        try:
            return messages.parse_leniently(kind, payload)
        except messages.Rejected as refusal:
            self.refused.append(refusal.reason)
            return None

    def __call__(self, *bodies: tuple[int, bytes]) -> list[Routed]:
        stream = b"".join(
            b"MSG s %d %d\r\n%b\r\n" % (1 if kind == EVENT else 3, len(body), body)
            for kind, body in bodies
        )
        assert self.router.scan(stream, 0, len(stream), self.now_ns, len(bodies)) == len(stream)
        return unpack(self.router.take(0))


def by_router(kind: int, body: bytes, feed: Source | None = None) -> Reading:
    feed = feed or Source()
    found = feed((kind, body))
    if not found:
        return feed.refused.pop()
    assert [record.kind for record in found] == [kind]
    assert not feed.refused
    _, user, alarm, status, time_ns, _, _ = found[0]
    # Beyond 64 bits is the one time that even this feed clamps.
    return user, alarm, status, min(time_ns, LATE_NS + WIDE_SKEW_NS)


def by_messages(kind: int, body: bytes) -> Reading:
    try:
        if kind == REQUEST:
            return messages.parse_leniently(REQUEST, body)
        event = messages.read_event(body)
    except messages.Rejected as refusal:
        return refusal.reason if refusal.detail else "no detail"
    time_ns = min(event.changed_at_ns, LATE_NS + WIDE_SKEW_NS)
    return event.user_id.encode(), event.alarm_id.encode(), event.status, time_ns


def by_model(kind: int, body: bytes) -> Reading:
    found = model.read_request(body) if kind == REQUEST else model.read_event(body)
    if isinstance(found, str):
        return found
    if isinstance(found, model.Request):
        return found.user.encode(), b"", 0, 0
    time_ns = min(found.changed_at, LATE_NS + WIDE_SKEW_NS)
    return found.user.encode(), found.alarm.encode(), int(found.status), time_ns


def reading(kind: int, body: bytes, feed: Source | None = None) -> Reading:
    """What all three make of it."""
    expected = by_model(kind, body)
    assert by_messages(kind, body) == expected, body
    # The feed's arrivals rise by 1 ns with each message: one that is used again clamps later.
    routed = by_router(kind, body, feed)
    assert routed == expected, body
    return expected


FIELDS: dict[str, Any] = {
    "AlarmID": "a",
    "UserID": "u",
    "Status": "WARNING",
    "ChangedAt": "2021-06-07T20:40:15Z",
}
AS_USUAL = (b"u", b"a", 1, NOON)


def body_of(**changes: object) -> bytes:
    """The usual event with some fields changed, and left out where they are `...`."""
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not ...}
    return json.dumps(fields, ensure_ascii=False).encode()


def body_with(text: str) -> bytes:
    """The usual event without UserID, and this JSON in front of its other fields."""
    return ("{" + text + "," + body_of(UserID=...).decode()[1:]).encode()


# -- accepted -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_of(), id="plain"),
        pytest.param(json.dumps(FIELDS, indent="\t").encode() + b"\r\n ", id="white space"),
        pytest.param(body_with('"UserId":"u"'), id="Go"),
        pytest.param(body_with('"userid":"u"'), id="lower case"),
        pytest.param(body_with('"USERID":"u"'), id="upper case"),
        pytest.param(body_with(r'"User\u0049\u0044":"\u0075"'), id="escaped"),
        pytest.param(body_of().replace(b"AlarmID", b"alarmId"), id="another AlarmID"),
        pytest.param(body_of().lower().replace(b'"warning"', b'"WARNING"'), id="all lower case"),
        pytest.param(body_with('"UserID":"x","UserID":"u"'), id="last of equals"),
        pytest.param(body_with('"UserId":"x","UserId":"u"'), id="last of equals, as Go"),
        pytest.param(body_with('"UserID":1,"UserID":"u"'), id="last of equals of another kind"),
        pytest.param(body_with('"userid":1,"UserID":"u","UserId":3'), id="exact wins"),
        pytest.param(body_with('"UserID":"u","userid":"x"'), id="exact wins over a later one"),
        pytest.param(body_with('"userid":1,"UserId":"u"'), id="last variant"),
        pytest.param(body_with('"UserId":1,"userid":"u"'), id="last variant, not Go's"),
        pytest.param(body_with('"userid":1,"UserId":2,"userid":"u"'), id="last variant, repeated"),
        pytest.param(body_with('"UserId":2,"userid":1,"UserId":"u"'), id="last variant, Go's"),
        pytest.param(
            body_with(r'"userid":1,"\u0055\u0053\u0065\u0072\u0049\u0044":"u"'),
            id="last is escaped",
        ),
        pytest.param(body_with(r'"userid":1,"x":"\\","UserId":"u"'), id="last behind a backslash"),
        pytest.param(body_with('"x":{"userid":1},"UserId":"u","USERID":"u"'), id="not from within"),
        pytest.param(
            body_with(r'"USERID":1,"UserId":"u","x":"\",\"userid\":9,{","y":[{"USERID":2}]'),
            id="not from within strings and lists",
        ),
        pytest.param(body_with('"UserID":"u","U\u017ferID":3'), id="the long s is no s"),
        pytest.param(body_with('"UserID":"u","":0,"\u212a":1'), id="other names"),
        pytest.param(body_of(UserID="u", extra=[1, {"a": None}], more=1e300), id="extra fields"),
    ],
)
def test_every_spelling_is_read(body: bytes) -> None:
    assert reading(EVENT, body) == AS_USUAL
    assert reading(REQUEST, body) == (b"u", b"", 0, 0)


@pytest.mark.parametrize(
    "extra",
    [
        *("null", "true", "-0", "1e-400", "18446744073709551616", "1" * 300, '"\\u0000"', "[]"),
        "{}",
        *('"\\ud83d\\ude00"', '{"AlarmID":{"UserID":[null]}}', "[[[[[[]]]]]]"),
        '"' + "x" * 9999 + '"',
    ],
)
def test_an_extra_field_of_any_kind_is_ignored(extra: str) -> None:
    assert reading(EVENT, body_with(f'"UserID":"u","extra":{extra}')) == AS_USUAL
    assert reading(REQUEST, f'{{"extra":{extra},"UserId":"u"}}'.encode()) == (b"u", b"", 0, 0)


@pytest.mark.parametrize(("word", "status"), [("CLEARED", 0), ("WARNING", 1), ("CRITICAL", 2)])
def test_the_three_words_are_read(word: str, status: int) -> None:
    assert reading(EVENT, body_of(Status=word)) == (b"u", b"a", status, NOON)


@pytest.mark.parametrize("name", ["UserID", "AlarmID"])
@pytest.mark.parametrize(
    ("fits", "does_not"),
    [
        ("a" * 1024, "a" * 1025),
        ("é" * 512, "é" * 512 + "a"),
        ("a" + "€" * 341, "€" * 342),
        ("\U0001f514" * 256, "\U0001f514" * 256 + "\0"),
        ("\0" * 1024, "\0" * 1025),
    ],
)
def test_an_id_may_have_1024_bytes_and_no_more(name: str, fits: str, does_not: str) -> None:
    ids_read = reading(EVENT, body_of(**{name: fits}))[:2]
    assert fits.encode() in ids_read
    assert reading(EVENT, body_of(**{name: does_not})) == "too_long"
    request = "too_long" if name == "UserID" else (b"u", b"", 0, 0)
    assert reading(REQUEST, body_of(**{name: does_not})) == request


# -- refused, each with its reason ----------------------------------------------------------------

NOT_JSON = [
    *(b"", b" ", b"\0", b"nope", b"{", b"{}{}", b"{'UserID':'u'}", b'{"UserID":"u",}', b"\xff"),
    *(body_of() + b"x", body_of() + b"\0", body_of()[:-1], b"\xef\xbb\xbf" + body_of()),
    *(body_of().decode().encode(form) for form in ("utf-16", "utf-16-le", "utf-32")),
    body_of().replace(b'"u"', b'"\xff"'),
    body_of().replace(b'"u"', b'"\xc0\xaf"'),
    body_of().replace(b'"u"', b'"\xed\xa0\x80"'),
    body_of().replace(b'"u"', b'"\xf4\x90\x80\x80"'),
    body_of().replace(b'"u"', rb'"\ud800"'),
    body_of().replace(b'"u"', rb'"\udc00\ud800"'),
    body_of().replace(b'"u"', b'"\n"'),
    body_of().replace(b'"u"', rb'"\x41"'),
    *(body_with(f'"UserID":"u","x":{bad}') for bad in ("NaN", "-Infinity", "01", "1.", ".5", "+1")),
    *(
        body_with(f'"UserID":"u","x":{bad}')
        for bad in ("1e400", "-1e999", "0x1", "tru", "//", "'x'")
    ),
    body_with(r'"UserID":"u","\ud800":1'),
]
NO_ID: list[object] = [..., None, "", 1, True, ["u"], {"UserID": "u"}]
NOT_THE_SCHEMA = [
    *(b"null", b"true", b"5", b'"UserID"', b"[]", b"{}", b'["UserID","u"]'),
    b"[" + body_of() + b"]",
    *(body_of(UserID=wrong) for wrong in NO_ID),
    body_with('"UserID":null,"UserId":"u"'),
    body_with('"UserID":"","UserId":"u"'),
    body_with('"UserID":"u","UserID":1'),
    body_with('"userid":1,"UserId":2,"userid":3'),
    body_with('"userid":"u","UserId":2'),
    body_with('"U\u017ferID":"u"'),
    body_with('"UserID ":"u"'),
    body_with('"UserID\\u0000":"u"'),
    body_with('"User_ID":"u"'),
    body_with('"\uff35serID":"u"'),
]
NOT_THE_SCHEMA_OF_AN_EVENT = [
    *(body_of(AlarmID=wrong) for wrong in NO_ID),
    *(body_of(Status=wrong) for wrong in NO_ID),
    *(body_of(ChangedAt=wrong) for wrong in [*NO_ID, NOON, NOON / 1e9]),
    body_of(AlarmID=..., Alarm="a"),
    body_of(ChangedAt=..., **{"ChangedA\u0442": "2021-06-07T20:40:15Z"}),
]
NO_STATUS = [
    *("CLEAREX", "WARNINX", "CRITICAX", "XLEARED", "XARNING", "XRITICAL"),
    *("OK", "cleared", "Warning", "CRITICAL ", " WARNING", "CLEARED\0", "WARNINGS", "0", "1"),
    "null",
    *("\u212aRITICAL", "CRITICA\u013f", "CLEAR", "x" * 100_000),
]
NO_TIME = [
    "now",
    "1623098415",
    "2021-06-07",
    "2021-06-07T20:40:15",
    "0001-01-01T00:00:00Z",
    "\0" * 30,
]


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert reading(EVENT, body) == "json"
    assert reading(REQUEST, body) == "json"


@pytest.mark.parametrize("body", NOT_THE_SCHEMA)
def test_what_does_not_name_a_user_is_refused(body: bytes) -> None:
    assert reading(EVENT, body) == "schema"
    assert reading(REQUEST, body) == "schema"


@pytest.mark.parametrize("body", NOT_THE_SCHEMA_OF_AN_EVENT)
def test_an_event_needs_its_four_fields_and_a_request_only_one(body: bytes) -> None:
    assert reading(EVENT, body) == "schema"
    assert reading(REQUEST, body) == (b"u", b"", 0, 0)


@pytest.mark.parametrize("word", NO_STATUS)
def test_another_status_is_refused(word: str) -> None:
    assert reading(EVENT, body_of(Status=word)) == "status"


@pytest.mark.parametrize("text", NO_TIME)
def test_another_time_is_refused(text: str) -> None:
    """What is a time in all its detail stands in test_timestamps.py."""
    assert reading(EVENT, body_of(ChangedAt=text)) == "changed_at"


def test_the_first_reason_that_applies_is_given() -> None:
    """Each body has one fault less than the one before."""
    long = "x" * 1025
    faults: dict[str, object] = {"UserID": long, "AlarmID": long, "Status": "x", "ChangedAt": "x"}
    bodies = [
        body_of(**{**faults, "UserID": 1}) + b"x",
        body_of(**{**faults, "UserID": 1}),
        body_of(**{**faults, "ChangedAt": None}),
        body_of(**faults),
        body_of(**{**faults, "UserID": "u"}),
        body_of(Status="x", ChangedAt="x"),
        body_of(ChangedAt="x"),
    ]
    expected = ["json", "schema", "schema", "too_long", "too_long", "status", "changed_at"]
    assert [reading(EVENT, body) for body in bodies] == expected
    assert list(dict.fromkeys(expected)) == list(messages.REASONS)


# -- hostile bodies -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["[%s]", '{"a":%s}', '[{"a":%s}]'])
def test_what_is_nested_too_deeply_is_refused_and_crashes_nothing(shape: str) -> None:
    """Not compared with the model, since the standard library has a limit of its own."""
    for depth, expected in ((200, AS_USUAL), (1_100, "json"), (200_000, "json")):
        opening, closing = shape.split("%s")
        nested = opening * depth + "1" + closing * depth
        body = body_with(f'"UserID":"u","x":{nested}')
        assert by_messages(EVENT, body) == by_router(EVENT, body) == expected
        assert by_messages(EVENT, nested.encode()) == by_router(EVENT, nested.encode())
        unclosed = (opening * depth).encode()
        assert by_messages(REQUEST, unclosed) == by_router(REQUEST, unclosed) == "json"


MEGABYTE = 1_000_000
VARIANTS = [
    "".join(c.upper() if bits >> i & 1 else c.lower() for i, c in enumerate("changedat"))
    for bits in range(512)
]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(body_of(UserID="x" * MEGABYTE), "too_long", id="id"),
        pytest.param(body_of(Status="x" * MEGABYTE), "status", id="status"),
        pytest.param(body_of(ChangedAt="2" * MEGABYTE), "changed_at", id="time"),
        pytest.param(
            body_of(ChangedAt=f"2021-06-07T20:40:15.{'0' * MEGABYTE}Z"), AS_USUAL, id="fraction"
        ),
        pytest.param(
            body_with('"userid":1,"UserId":2,"x":"%s"' % ("x" * MEGABYTE)), "schema", id="string"
        ),
        pytest.param(
            body_with('"userid":1,"UserId":2,"x":"%s"' % (r"\"" * (MEGABYTE // 2))),
            "schema",
            id="escapes",
        ),
        pytest.param(
            body_with('"userid":1,"UserId":2,"x":[%s0]' % ("[]," * (MEGABYTE // 3))),
            "schema",
            id="lists",
        ),
        pytest.param(
            body_with('"userid":1,%s"UserId":"u"' % ('"a":0,' * (MEGABYTE // 6))),
            AS_USUAL,
            id="repeats",
        ),
        pytest.param(
            body_with(",".join(f'"{n:x}":0' for n in range(MEGABYTE // 9)) + ',"UserId":"u"'),
            AS_USUAL,
            id="names",
        ),
        pytest.param(
            body_of(ChangedAt=...)[:-1]
            + b"".join(b',"%b":0' % name.encode() for name in VARIANTS * 137 if name != "ChangedAt")
            + b"}",
            "schema",
            id="all variants of a name",
        ),
        pytest.param(b'"' * MEGABYTE, "json", id="quotes"),
        pytest.param(b"\\" * MEGABYTE, "json", id="backslashes"),
        pytest.param(b"\0" * MEGABYTE, "json", id="zeros"),
        pytest.param(b"1" * MEGABYTE, "json", id="one number"),
    ],
)
def test_a_megabyte_of_malice_does_not_cost_its_square(body: bytes, expected: Reading) -> None:
    started = time.thread_time()
    assert by_messages(EVENT, body) == expected
    assert by_router(EVENT, body) == expected
    # Some 0.1 s; what grows with the square of the length takes minutes.
    assert time.thread_time() - started < 5.0


# -- mutated and generated bodies -----------------------------------------------------------------

SEEDS = [
    body_of(),
    body_of(ChangedAt="2021-06-07T22:40:15.598765212+02:00", Status="CRITICAL"),
    body_of(
        UserID="\U0001f514é", AlarmID='\\"\n', Status="CLEARED", ChangedAt="2300-01-01T00:00:00Z"
    ),
    body_with('"UserId":"u"'),
    body_with('"userid":"u","UserId":"v","USERID":3'),
    body_with(r'"User\u0049D":"\u00e9\ud83d\ude00"'),
    body_of(UserID="u" * 1024),
    body_of(extra={"UserID": [1, 2.5, None, {"x": "y"}]}, n=-1.5e10),
    *(b'{"UserID":"u"}', b'{"UserId":"u"}', b'{"userID":"u","UserId":"v"}', b" { } "),
    b'[{"UserID":"u"}]',
]
PIECES = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b" ", b"\0", b"\n", b"\xff", b"\xc3"),
    b"\xed\xa0\x80",
    *(b"0", b"9", b"-", b"+", b".", b"e", b"E9", b"e999", b"1" * 20, b"Z", b"T", b"null", b"NaN"),
    b"true",
    *(b'"UserID":', b'"UserId":', b'"userid":', b'"AlarmID":', b'"alarmID":', b'"UserID":"w",'),
    *(b'"userid":"w",', b'"status":"WARNING",', b'"ChangedAt":"2021-06-07T20:40:15Z",'),
    b"\xe2\x84\xaa",
    *(rb"\ud800", rb"\u0000", rb"\u0041", b"WARNING", b"CRITICAL", b"x" * 1025, "é".encode(), b""),
]


def mutated(rng: random.Random) -> bytes:
    body = rng.choice(SEEDS)
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.randrange(len(body) + 1)
        end = start + rng.choice((0, 0, 1, 1, 2, 9))
        what = rng.randrange(5)
        if what == 0:
            piece = bytes((rng.randrange(256),))
        elif what == 1:
            piece = b""
        elif what == 2:
            piece = body[end : end + rng.randint(1, 30)]
        else:
            piece = rng.choice(PIECES)
        body = body[:start] + piece + body[end:]
    return body


def test_all_three_read_mutated_bodies_alike() -> None:
    rng = random.Random(20210607)
    count = cases(30_000, 1_000_000)
    seen: dict[str, int] = {}
    for _ in range(count // 1000):
        feed = Source()
        for _ in range(1000):
            found = reading(rng.choice((EVENT, REQUEST)), mutated(rng), feed)
            word = found if isinstance(found, str) else "accepted"
            seen[word] = seen.get(word, 0) + 1
        assert feed.router.slow_path < feed.router.events + feed.router.requests
    for word in ("accepted", *messages.REASONS):
        assert seen[word] > count // 1000, "the mutations leave something out"


field_names = st.sampled_from(
    [name for exact in FIELDS for name in (exact, exact, exact.lower(), exact.title())]
    + ["UserId", "userID", "\u212ay", "U\u017ferID", "x"]
)
values: st.SearchStrategy[object] = st.one_of(
    ids(),
    st.sampled_from([None, True, 0, 2**70, 1.5, "", "x" * 1025, [], {"UserID": "u"}]),
    st.sampled_from(["CLEARED", "WARNING", "CRITICAL", "warning", "2021-06-07T20:40:15Z"]),
)


@settings(max_examples=cases(300, 100_000), deadline=None)
@given(
    st.lists(st.tuples(field_names, values), max_size=3),
    st.sampled_from([(), *((name,) for name in FIELDS)]),
    st.permutations(list(FIELDS)),
    st.booleans(),
)
def test_all_three_read_generated_objects_alike(
    pairs: list[tuple[str, object]], left_out: tuple[str, ...], order: list[str], ascii_only: bool
) -> None:
    usual = [(name, FIELDS[name]) for name in order if name not in left_out]
    for written in (usual + pairs, pairs + usual):
        body = ",".join(
            json.dumps({name: value}, ensure_ascii=ascii_only)[1:-1] for name, value in written
        )
        reading(EVENT, f"{{{body}}}".encode())
        reading(REQUEST, f"{{{body}}}".encode())


# -- what the compiled path takes by itself -------------------------------------------------------


@settings(max_examples=cases(300, 100_000), deadline=None)
@given(events(), st.sampled_from(["UserID", "UserId"]), st.booleans())
def test_plain_and_go_spelled_messages_never_leave_the_compiled_path(
    event: model.Event, user_name: str, ascii_only: bool
) -> None:
    feed = Source()
    event = replace(event, changed_at=min(event.changed_at, model.BEYOND - 1))
    body = event_body(event, user_name=user_name, ascii_only=ascii_only)
    asked = request_body(model.Request(event.user), user_name=user_name, ascii_only=ascii_only)
    user, alarm = event.user.encode(), event.alarm.encode()
    assert [record[:5] for record in feed((EVENT, body), (REQUEST, asked))] == [
        (EVENT, user, alarm, event.status, event.changed_at),
        (REQUEST, user, b"", 0, 0),
    ]
    assert (feed.router.events, feed.router.requests, feed.router.slow_path) == (1, 1, 0)


def test_extra_fields_beside_exact_names_never_leave_the_compiled_path() -> None:
    feed = Source()
    assert len(feed((EVENT, body_of(x=[1])), (REQUEST, b'{"x":{},"UserID":"u","UserId":1}'))) == 2
    assert feed.router.slow_path == 0


def test_the_order_of_arrival_is_kept_when_odd_messages_are_mixed_in() -> None:
    rng = random.Random(5)
    feed = Source(now_ns=START)
    bodies: list[tuple[int, bytes]] = []
    expected = []
    for number in range(2_000):
        kind = rng.choice((EVENT, REQUEST))
        name = rng.choice(("UserID", "UserId", "userid"))
        expected.append((kind, b"%d" % number, START + len(bodies)))
        bodies.append((kind, body_with(f'"{name}":"{number}"')))
        if rng.random() < 0.2:
            bodies.append((kind, b"refused"))
    found = feed(*bodies)
    assert [(record.kind, record.user, record.arrival_ns) for record in found] == expected
    assert len(feed.refused) == len(bodies) - 2_000
    assert feed.router.slow_path > len(feed.refused)


# -- arrival, and clocks that are ahead -----------------------------------------------------------


def test_arrivals_rise_strictly_whatever_the_clock_does() -> None:
    feed = Source(now_ns=START, skew_ns=0)
    arrivals = []
    for now_ns in (
        START,
        START,
        START - HOUR_NS,
        START + 10,
        START + 10,
        0,
        START + 11,
        START + 50,
    ):
        feed.now_ns = now_ns
        arrivals += [feed((EVENT, body_of()))[0].arrival_ns - START]
    assert arrivals == [0, 1, 2, 10, 11, 12, 13, 50]
    assert feed.router.arrival_ns == START + 50


def test_a_refused_message_arrives_too() -> None:
    feed = Source(now_ns=START)
    assert feed((EVENT, b"refused")) == []
    assert feed.router.arrival_ns == START


@pytest.mark.parametrize("name", ["UserID", "UserId", "userid"])
def test_a_time_too_far_ahead_is_arrival_plus_skew_and_counted(name: str) -> None:
    feed = Source(now_ns=START, skew_ns=HOUR_NS)

    def clamped(time_ns: int) -> tuple[int, int]:
        """An event's time counted from its arrival + skew, and how many have been clamped."""
        text = model.format_time(time_ns)
        body = body_with(f'"{name}":"u"').replace(b"2021-06-07T20:40:15Z", text.encode())
        record = feed((EVENT, body))[0]
        return record.time_ns - record.arrival_ns - HOUR_NS, feed.router.clamped

    assert clamped(START + HOUR_NS) == (0, 0)
    assert clamped(START + HOUR_NS + 1) == (0, 0), "the second message arrives 1 ns later"
    assert clamped(START + HOUR_NS + 3) == (0, 1)
    assert clamped(START + HOUR_NS + 2) == (-1, 1)
    assert clamped(model.BEYOND) == (0, 2)
    assert clamped(model.EARLIEST)[1] == 2
    assert feed((REQUEST, b'{"UserID":"u"}'))[0].time_ns == 0
    assert feed.router.clamped == 2


def test_orjson_is_what_decides_what_json_is() -> None:
    """The tables above hold for this reading of numbers; another library may differ."""
    assert orjson.loads(b"18446744073709551616") == float(2**64)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(b"1e400")
