"""The model keeps the contract: its examples, what follows from its rule, its readings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import orjson
import pytest
from histories import (
    START,
    History,
    event_body,
    events,
    histories,
    ids,
    instants,
    request_body,
)
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from model import (
    EARLIEST,
    FAR_FUTURE,
    RETENTION_NS,
    SKEW_NS,
    Digest,
    Entry,
    Event,
    Forget,
    Message,
    Model,
    Request,
    Status,
    format_time,
    parse_time,
    read_event,
    read_request,
)

WORDS = {"W": "WARNING", "C": "CRITICAL", "X": "CLEARED"}


def message(shorthand: str) -> Message | str:
    """Read the contract's `W a@3` and `D` by way of the JSON that they stand for."""
    if shorthand == "D":
        return read_request(request_body(Request("u")))
    word, alarm, time = shorthand.replace("@", " ").split()
    body = json.loads(event_body(Event("u", alarm, Status.CLEARED, int(time))))
    return read_event(json.dumps({**body, "Status": WORDS.get(word, word)}).encode())


def replay(history: str) -> list[str]:
    """What the contract's shorthand publishes: digests as `a W@1, b C@2`, and refusals."""
    model = Model()
    published = []
    for step, shorthand in enumerate(history.split(", ")):
        said = message(shorthand)
        if isinstance(said, str):
            published.append(f"rejected: {said}")
            continue
        digest = model.apply(said, START + step)
        if isinstance(said, Request):
            entries = digest.entries if digest else ()
            shown = [f"{one.alarm} {one.status.name[0]}@{one.changed_at}" for one in entries]
            published.append(", ".join(shown) or "none")
    return published


@pytest.mark.parametrize(
    ("history", "published"),
    [
        ("W a@1, D", ["a W@1"]),
        ("C b@2, W a@1, D", ["a W@1, b C@2"]),
        ("C a@2, W a@1, D", ["a C@2"]),
        ("X a@2, C a@1, D", ["none"]),
        ("C a@2, X a@1, D", ["a C@2"]),
        ("C a@1, C a@1, D, D", ["a C@1", "none"]),
        ("C a@1, D, C a@1, D", ["a C@1", "none"]),
        ("C a@1, D, C a@2, D", ["a C@1", "none"]),
        ("W a@1, D, C a@2, D", ["a W@1", "a C@2"]),
        ("C a@1, D, X a@2, C a@3, D", ["a C@1", "a C@3"]),
        ("C a@1, D, C a@3, X a@2, D", ["a C@1", "a C@3"]),
        ("W a@5, C a@5, D", ["a C@5"]),
        ("C a@5, W a@5, D", ["a C@5"]),
        ("W b@5, W a@5, D", ["a W@5, b W@5"]),
        ("W a@1, purple a@2, D", ["rejected: status", "a W@1"]),
    ],
)
def test_examples_of_the_contract(history: str, published: list[str]) -> None:
    assert replay(history) == published


@pytest.mark.parametrize(
    ("history", "published"),
    [
        # A change that was seen stays a change, whatever requests come in between.
        ("C a@1, D, X a@2, D, C a@3, D", ["a C@1", "none", "a C@3"]),
        # The events of a tie are a change of each other.
        ("W a@5, D, C a@5, D", ["a W@5", "a C@5"]),
        # An event older than what was sent changes nothing.
        ("C a@5, D, X a@4, D, C a@6, D", ["a C@5", "none", "none"]),
        # A repeat moves what is shown, yet not what was sent: X a@2 came after C a@1 was sent.
        ("C a@1, D, C a@4, D, X a@2, D", ["a C@1", "none", "a C@4"]),
        ("W \uffff@5, W \U00010000@5, D", ["\uffff W@5, \U00010000 W@5"]),
    ],
)
def test_cases_between_the_examples(history: str, published: list[str]) -> None:
    assert replay(history) == published


def run(model: Model, history: History) -> list[Digest]:
    digests = [model.apply(message, arrival) for message, arrival in history]
    return [digest for digest in digests if digest is not None]


alarms_of_one = events(
    st.just("u"), st.sampled_from("ab"), st.one_of(st.integers(0, 3), st.just(START + SKEW_NS))
)


@given(st.lists(st.lists(alarms_of_one, max_size=6), max_size=4), st.data())
def test_order_and_repeats_between_digests_change_nothing(
    batches: list[list[Event]], data: st.DataObject
) -> None:
    straight, shuffled = Model(), Model()
    arrival = START
    for batch in batches:
        repeats = data.draw(st.lists(st.sampled_from(batch), max_size=4)) if batch else []
        for step, event in enumerate(batch):
            straight.apply(event, arrival + step)
        for step, event in enumerate(data.draw(st.permutations(batch + repeats))):
            shuffled.apply(event, arrival + step)
        arrival += 100
        assert straight.apply(Request("u"), arrival) == shuffled.apply(Request("u"), arrival)
    assert straight.clamped == shuffled.clamped == 0


@given(histories())
def test_nothing_is_sent_twice_unless_its_status_changed_in_between(history: History) -> None:
    model = Model()
    sent: dict[tuple[str, str], Status] = {}
    since: dict[tuple[str, str], set[Status]] = {}
    for said, arrival in history:
        digest = model.apply(said, arrival)
        if isinstance(said, Event):
            since.setdefault((said.user, said.alarm), set()).add(said.status)
        if isinstance(said, Forget):
            sent = {alarm: status for alarm, status in sent.items() if alarm[0] != said.user}
        for entry in digest.entries if digest else ():
            alarm = (said.user, entry.alarm)
            assert alarm not in sent or since[alarm] - {sent[alarm]}
            sent[alarm], since[alarm] = entry.status, set()


@given(histories())
def test_a_digest_holds_active_alarms_once_oldest_first(history: History) -> None:
    for digest in run(Model(), history):
        order = [(entry.changed_at, entry.alarm.encode()) for entry in digest.entries]
        assert order == sorted(set(order))
        assert len({entry.alarm for entry in digest.entries}) == len(order) > 0
        assert all(entry.status != Status.CLEARED for entry in digest.entries)


@given(histories())
def test_users_are_independent(history: History) -> None:
    together = Model()
    digests = run(together, history)
    clamped = 0
    for user in {said.user for said, _ in history}:
        alone = Model()
        own = [(said, arrival) for said, arrival in history if said.user == user]
        assert run(alone, own) == [digest for digest in digests if digest.user == user]
        clamped += alone.clamped
    assert together.clamped == clamped


@given(st.integers(-2, 2), st.sampled_from(["late", "request"]))
def test_cleared_is_remembered_for_the_retention_and_not_longer(edge: int, first: str) -> None:
    model = Model()
    late = START + RETENTION_NS + edge
    model.apply(Event("u", "a", Status.CLEARED, 2), START)
    # Neither an older event nor a repeat of the latest makes it be remembered for longer.
    model.apply(Event("u", "a", Status.WARNING, 1), START + 5)
    model.apply(Event("u", "a", Status.CLEARED, 2), START + 6)
    if first == "request":
        assert model.apply(Request("u"), late - 1) is None
    model.apply(Event("u", "a", Status.CRITICAL, 1), late)
    revived = Digest("u", (Entry("a", Status.CRITICAL, 1),))
    assert model.apply(Request("u"), late) == (revived if edge > 0 else None)


@given(st.integers(-2, 2))
def test_what_was_sent_is_forgotten_with_its_alarm(edge: int) -> None:
    model = Model()
    sent = Digest("u", (Entry("a", Status.WARNING, 1),))
    model.apply(Event("u", "a", Status.WARNING, 1), START)
    assert model.apply(Request("u"), START) == sent
    model.apply(Event("u", "a", Status.CLEARED, 2), START)
    late = START + RETENTION_NS + edge
    model.apply(Event("u", "a", Status.WARNING, 1), late)
    assert model.apply(Request("u"), late) == (sent if edge > 0 else None)


@given(st.integers(0, 100 * RETENTION_NS), st.integers(0, 100 * RETENTION_NS))
def test_an_active_alarm_is_never_forgotten(unsent: int, after: int) -> None:
    model = Model()
    model.apply(Event("u", "a", Status.WARNING, 1), START)
    assert model.apply(Request("u"), START + unsent) is not None
    model.apply(Event("u", "a", Status.WARNING, 1), START + unsent + after)
    assert model.apply(Request("u"), START + unsent + after) is None


@pytest.mark.parametrize(
    ("ahead", "clamped"), [(SKEW_NS - 1, 0), (SKEW_NS, 0), (SKEW_NS + 1, 1), (FAR_FUTURE, 1)]
)
def test_a_time_beyond_the_skew_counts_as_arrival_plus_skew(ahead: int, clamped: int) -> None:
    model = Model()
    model.apply(Event("u", "a", Status.WARNING, min(START + ahead, FAR_FUTURE)), START)
    shown = START + min(ahead, SKEW_NS)
    assert model.clamped == clamped
    assert model.apply(Request("u"), START) == Digest("u", (Entry("a", Status.WARNING, shown),))


def test_a_wrong_clock_hides_other_events_for_the_skew_at_most() -> None:
    model = Model()
    model.apply(Event("u", "a", Status.CLEARED, FAR_FUTURE), START)
    for step, hidden in [(SKEW_NS - 1, True), (SKEW_NS, False)]:
        model.apply(Event("u", "a", Status.WARNING, START + step), START + step)
        assert (model.apply(Request("u"), START + step) is None) is hidden
    assert model.clamped == 1


def test_an_empty_digest_is_published_only_on_demand() -> None:
    assert Model().apply(Request("u"), START) is None
    assert Model(publish_empty=True).apply(Request("u"), START) == Digest("u", ())


def test_arrivals_never_go_back() -> None:
    model = Model()
    model.apply(Request("u"), START)
    with pytest.raises(ValueError, match="never go back"):
        model.apply(Request("u"), START - 1)


def clamps(history: History) -> bool:
    model = Model()
    return bool(run(model, history)) and model.clamped > 0


def forgets(history: History) -> bool:
    return run(Model(), history) != run(Model(retention_ns=1000 * RETENTION_NS), history)


def sends_again(history: History) -> bool:
    sent = [(one.user, entry.alarm) for one in run(Model(), history) for entry in one.entries]
    return len(set(sent)) < len(sent)


def breaks_a_tie(history: History) -> bool:
    times = [[entry.changed_at for entry in one.entries] for one in run(Model(), history)]
    return any(len(set(one)) < len(one) for one in times)


@pytest.mark.parametrize("decides", [clamps, forgets, sends_again, breaks_a_tie])
def test_random_histories_reach_every_part_of_the_rule(decides: Callable[[History], bool]) -> None:
    # Unshrunk: only that there is one matters. find() raises NoSuchExample where there is none.
    quick = settings(max_examples=500, database=None, derandomize=True, phases=[Phase.generate])
    find(histories(1, 30), decides, settings=quick)


@given(st.builds(Event, ids(), ids(), st.sampled_from(Status), instants()), st.booleans())
def test_what_a_publisher_writes_is_what_is_read(event: Event, ascii_only: bool) -> None:
    for name in ("UserID", "UserId"):
        body = event_body(event, user_name=name, ascii_only=ascii_only)
        assert orjson.loads(body)[name] == event.user
        assert read_event(body) == event
        request = Request(event.user)
        assert read_request(request_body(request, user_name=name, ascii_only=ascii_only)) == request
    assert read_event(event_body(replace(event, changed_at=EARLIEST - 1))) == "changed_at"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.1z", 100_000_000),
        ("1970-01-01T00:00:00.0000000019999Z", 1),
        ("1969-12-31T23:59:59.9999999999Z", -1),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1969-12-31T00:01:00-23:59", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("2021-06-07T20:40:15.598765212Z", START),
        ("2020-02-29T00:00:00Z", 1_582_934_400 * 10**9),
        ("2016-12-31T23:59:60Z", 1_483_228_800 * 10**9),
        ("2016-12-31T23:59:60.999Z", 1_483_228_800 * 10**9),
        ("1970-01-01T00:00:60.5Z", 60 * 10**9),
        ("1677-09-22T00:00:00Z", EARLIEST),
        ("1677-09-21T23:59:00.5-00:01", EARLIEST + 5 * 10**8),
        ("1677-09-21T23:59:60Z", EARLIEST),
        ("2262-04-10T23:59:59.999999999Z", 9_223_286_399_999_999_999),
        ("2262-04-10T23:59:60Z", FAR_FUTURE),
        ("2262-04-10T23:59:00-00:01", FAR_FUTURE),
        ("2262-04-11T00:00:00+00:01", 9_223_286_340 * 10**9),
        ("9999-12-31T23:59:60-23:59", FAR_FUTURE),
    ],
)
def test_accepted_times(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "", "1623098415", "2021-06-07", "20210607T204015Z", "2021-06-07T20:40Z",
        "2021-06-07T20:40:15", "2021-06-07 20:40:15Z", "2021-06-07_20:40:15Z",
        "2021-06-07T20:40:15.Z", "2021-06-07T20:40:15,5Z", "2021-06-07T20:40:15Z\n",
        " 2021-06-07T20:40:15Z", "+2021-06-07T20:40:15Z", "02021-06-07T20:40:15Z",
        "2021-6-07T20:40:15Z", "2021-06-07T20:40:15ZZ", "2021-06-07T20:40:15Z+00:00",
        "2021-06-07T20:40:15+01", "2021-06-07T20:40:15+0100", "2021-06-07T20:40:15\u221201:00",
        "2021-06-07T20:40:15+24:00", "2021-06-07T20:40:15+00:60", "2021-06-07T24:00:00Z",
        "2021-06-07T20:60:00Z", "2021-06-07T20:40:61Z", "2021-13-01T00:00:00Z",
        "2021-00-01T00:00:00Z", "2021-01-00T00:00:00Z", "2021-04-31T00:00:00Z",
        "2021-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2262-02-29T00:00:00Z",
        "202\uff11-06-07T20:40:15Z", "2021-06-07T20:40:15.\u0663Z", "2021-06-07T20:4\u0660:15Z",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1677-09-22T00:00:00+00:01",
        "1677-09-21T23:59:59.9999999999Z",
    ],
)  # fmt: skip
def test_refused_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"zone|1677|must be in|out of range"):
        parse_time(text)


@given(instants())
def test_a_time_reads_as_it_was_written(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns
    assert len(format_time(ns)) == len("2021-06-07T20:40:15.598765212Z")


GOOD = b'{"AlarmID":"a","UserID":"u","Status":"WARNING","ChangedAt":"1970-01-01T00:00:00Z"'
LONG = b"\xc3\xa9" * 512


@pytest.mark.parametrize(
    ("body", "user"),
    [
        (b' {"UserID" : "u", "x": [1, -0.5e2, null, true, {"UserID": ""}]}\r\n', "u"),
        (b'{"userid":"v","UserId":"w"}', "w"),
        (b'{"UserId":"v","userid":"w","UserId":"x"}', "x"),
        (b'{"userid":"v","UserId":"w","userid":"x"}', "x"),
        (b'{"UserID":"u","userid":"v","UserId":3}', "u"),
        (b'{"userid":null,"UserID":"t","UserID":"u","USERID":"v"}', "u"),
        (b'{"UserID":null,"UserId":"v"}', "schema"),
        (b'{"UserID":"u","UserID":""}', "schema"),
        (rb'{"User\u0049D":"u","UserId":"v"}', "u"),
        (rb'{"UserID":"\u0000\ud83d\ude00\u007f"}', "\0\U0001f600\x7f"),
        (b'{"UserID":"%s"}' % LONG, "\xe9" * 512),
        (b'{"UserID":"%sa"}' % LONG, "too_long"),
        (b'{"UserID":"u","n":%s}' % (b"9" * 308), "u"),
        ('{"U\u017ferID":"u"}'.encode(), "schema"),
        *((body, "schema") for body in (b"{}", b"[]", b"null", b'"UserID"', b'["UserID","u"]')),
        *((b'{"UserID":%s}' % value, "schema") for value in (b"1", b'["u"]', b'{"a":"u"}')),
        *((b'{"UserID":"u","x":%s}' % value, "json") for value in (
            b"NaN", b"-Infinity", b"1e400", b"9" * 400, b"01", b"1.", b"+1", b'"\t"', b'"\0"',
            rb'"\ud800"', rb'["\udc00\ud800"]', rb'{"\udfff":1}', rb'"\x"', b'"\xed\xa0\x80"',
            b'"\xc0\x80"', b'"\xff"', b"'a'", b"[1,]", b"", b"\xa0 1", b"1}", b"1/**/",
        )),
        *((body, "json") for body in (b"", b" ", b"u", b'{"UserID":"u"', b'{"UserID":"u",}')),
        (b'\xef\xbb\xbf{"UserID":"u"}', "json"),
        ('{"UserID":"u"}'.encode("utf-16"), "json"),
        ('{"UserID":"u"}'.encode("utf-32-le"), "json"),
    ],
)  # fmt: skip
def test_requests_and_the_reasons_to_refuse_one(body: bytes, user: str) -> None:
    reasons = ("json", "schema", "too_long")
    assert read_request(body) == (user if user in reasons else Request(user))
    assert orjson_reads(body) == (user != "json")


@pytest.mark.parametrize(
    ("end", "read"),
    [
        (b"}", Event("u", "a", Status.WARNING, 0)),
        (b',"status":"CLEARED"}', Event("u", "a", Status.WARNING, 0)),
        (b',"Status":"CLEARED"}', Event("u", "a", Status.CLEARED, 0)),
        (b',"Status":"warning"}', "status"),
        (b',"Status":"CLEARED "}', "status"),
        (b',"ChangedAt":"yesterday"}', "changed_at"),
        (b',"ChangedAt":"0001-01-01T00:00:00Z"}', "changed_at"),
        *((b',"%s":""}' % name, "schema") for name in (b"AlarmID", b"UserID", b"Status")),
        (b',"ChangedAt":0}', "schema"),
        # Where several apply, the first of the contract's list is the reason.
        (b',"ChangedAt":"","Status":"?","AlarmID":"%sa"}' % LONG, "schema"),
        (b',"ChangedAt":"?","Status":"?","AlarmID":"%sa"}' % LONG, "too_long"),
        (b',"ChangedAt":"?","Status":"?","UserID":"%sa"}' % LONG, "too_long"),
        (b',"ChangedAt":"?","Status":"?"}', "status"),
        (b',"ChangedAt":"","x":NaN}', "json"),
    ],
)
def test_events_and_the_reasons_to_refuse_one(end: bytes, read: Event | str) -> None:
    assert read_event(GOOD + end) == read


@pytest.mark.parametrize("name", ["AlarmID", "UserID", "Status", "ChangedAt"])
def test_every_field_of_an_event_is_required(name: str) -> None:
    fields = json.loads(GOOD + b"}")
    del fields[name]
    assert read_event(json.dumps(fields).encode()) == "schema"


def orjson_reads(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


PIECES = [b'{"UserID":"u"}', *b'{ } [ ] , : " "a" \\ \\ud800 \\udc00 \\n 1 - . e 99'.split()]
PIECES += [b"true", b"NaN", b"\xef\xbb\xbf", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\0", b"\x7f"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join) | st.binary(max_size=12))
def test_the_model_refuses_as_json_what_orjson_refuses(body: bytes) -> None:
    for wrapped in (body, b'{"UserID":"' + body + b'"}', b'{"UserID":' + body + b"}"):
        assert (read_request(wrapped) != "json") == orjson_reads(wrapped)
