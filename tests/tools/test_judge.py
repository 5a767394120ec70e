"""The judge sees each mistake that the kill tests are made to find; the feeder loses nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import nats
import orjson
import pytest
from histories import START, History, histories
from hypothesis import given
from model import RETENTION_NS, SKEW_NS, Digest, Entry, Model, format_time
from nats.js.api import StreamConfig
from support.feeder import MS_NS, Feeder, history
from support.judge import ALARMS, Stored, UserModels, assert_exact, judge, read_stream
from support.nats_server import NatsServer
from support.stream_service import RETENTION_NS as SHORT_RETENTION_NS
from support.stream_service import SKEW_NS as SHORT_SKEW_NS
from support.stream_service import assert_worth_judging

Output = list[Stored]


@cache
def alarms(count: int = 4000) -> tuple[Stored, ...]:
    """A history as a stream would hold it, whose clock now and then stands still or goes back."""
    dice = random.Random(5)
    now = START
    messages = history(dice, clock=lambda: now)
    found = []
    for number in range(1, count + 1):
        now += dice.choice([MS_NS // 3, MS_NS // 3, MS_NS // 3, 0, -MS_NS])
        now += dice.random() < 0.01 and 100 * MS_NS
        found.append(Stored(number, now, *next(messages)))
    return tuple(found)


expected = judge(alarms(), skew_ns=SHORT_SKEW_NS, retention_ns=SHORT_RETENTION_NS)


def stored(number: int, digest: Digest) -> Stored:
    entries = [
        {
            "AlarmID": one.alarm,
            "Status": one.status.name,
            "LatestChangedAt": format_time(one.changed_at),
        }
        for one in digest.entries
    ]
    body = orjson.dumps({"UserID": digest.user, "ActiveAlarms": entries})
    return Stored(number, START, "AlarmDigest", body, {"Nats-Msg-Id": f"id-{number}"})


def faultless() -> tuple[Output, Output]:
    """What a service without fault would have written, users mixed as the requests were."""
    answers = sorted(
        (one for user in expected.answers.values() for one in user), key=lambda one: one.sequence
    )
    digests = [stored(number, answer.digest) for number, answer in enumerate(answers, 1)]
    rejected = [
        Stored(
            1,
            START,
            "AlarmRejected",
            body,
            {"Alarmdigest-Reason": reason, "Alarmdigest-Subject": subject},
        )
        for body, reason, subject in expected.refused.elements()
    ]
    return digests, rejected


def test_a_faultless_service_is_found_so() -> None:
    assert_worth_judging(expected)
    assert_exact(expected, *faultless())


def test_nobody_asks_for_an_order_among_users() -> None:
    digests, rejected = faultless()
    digests.sort(key=lambda one: orjson.loads(one.body)["UserID"])
    rejected.reverse()
    assert_exact(expected, digests, rejected)


def of_one_user(digests: Output) -> list[int]:
    """The places of one user's digests."""
    user = max(expected.answers, key=lambda user: len(expected.answers[user]))
    return [at for at, one in enumerate(digests) if orjson.loads(one.body)["UserID"] == user]


def renamed(one: Stored) -> Stored:
    """The same once more, as a service would publish it that makes another id for it."""
    return replace(one, headers={**one.headers, "Nats-Msg-Id": "another"})


def lose(digests: Output, _rejected: Output) -> None:
    del digests[of_one_user(digests)[7]]


def lose_the_last(digests: Output, _rejected: Output) -> None:
    del digests[of_one_user(digests)[-1]]


def double(digests: Output, _rejected: Output) -> None:
    at = of_one_user(digests)[7]
    digests.insert(at, renamed(digests[at]))


def double_the_last(digests: Output, _rejected: Output) -> None:
    digests.append(renamed(digests[of_one_user(digests)[-1]]))


def give_an_id_twice(digests: Output, _rejected: Output) -> None:
    digests[20] = replace(digests[20], headers=digests[3].headers)


def swap(digests: Output, _rejected: Output) -> None:
    one, other = of_one_user(digests)[7:9]
    digests[one], digests[other] = digests[other], digests[one]


def change_a_nanosecond(digests: Output, _rejected: Output) -> None:
    at = of_one_user(digests)[7]
    document = orjson.loads(digests[at].body)
    alarm = document["ActiveAlarms"][0]
    last = (int(alarm["LatestChangedAt"][-2]) + 1) % 10
    alarm["LatestChangedAt"] = f"{alarm['LatestChangedAt'][:-2]}{last}Z"
    digests[at] = replace(digests[at], body=orjson.dumps(document))


def add_a_field(digests: Output, _rejected: Output) -> None:
    document = orjson.loads(digests[3].body)
    digests[3] = replace(digests[3], body=orjson.dumps({**document, "Note": "x"}))


def send_to_another(digests: Output, _rejected: Output) -> None:
    document = orjson.loads(digests[3].body)
    digests[3] = replace(digests[3], body=orjson.dumps({**document, "UserID": "nobody"}))


def send_an_empty_one(digests: Output, _rejected: Output) -> None:
    digests.append(renamed(stored(0, Digest("nobody", ()))))


def lose_a_refusal(_digests: Output, rejected: Output) -> None:
    del rejected[3]


def double_a_refusal(_digests: Output, rejected: Output) -> None:
    rejected.append(rejected[3])


def change_a_reason(_digests: Output, rejected: Output) -> None:
    headers = {**rejected[3].headers, "Alarmdigest-Reason": "mood"}
    rejected[3] = replace(rejected[3], headers=headers)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lose, "digest 8 of .*too early: it is digest 9"),
        (lose_the_last, "is lost"),
        (double, "digest 9 of .*doubled: it is digest 8"),
        (double_the_last, "one too many at .*doubled"),
        (give_an_id_twice, "same Nats-Msg-Id as 4: id-4"),
        (swap, "digest 8 of .*too early: it is digest 9"),
        (change_a_nanosecond, "digest 8 of .*: expected .*; found at"),
        (add_a_field, r"ALARM_DIGESTS 4: no digest \(AssertionError"),
        (send_to_another, "'nobody'.*one too many"),
        (send_an_empty_one, "empty, for 'nobody'"),
        (lose_a_refusal, "ALARM_REJECTED: .* expected 1, found 0"),
        (double_a_refusal, "ALARM_REJECTED: .* expected 1, found 2"),
        (change_a_reason, "ALARM_REJECTED: mood .* expected 0, found 1"),
    ],
)
def test_a_mistake_is_named(mistake: Callable[[Output, Output], None], said: str) -> None:
    digests, rejected = faultless()
    mistake(digests, rejected)
    with pytest.raises(AssertionError, match=said):
        assert_exact(expected, digests, rejected)


def in_parts(digests: Output, most: int) -> Output:
    """The same digests, none with more than so many alarms."""
    parts: Output = []
    for one in digests:
        document = orjson.loads(one.body)
        found = document["ActiveAlarms"]
        for at in range(0, len(found), most):
            body = orjson.dumps({**document, "ActiveAlarms": found[at : at + most]})
            parts.append(replace(one, body=body, headers={"Nats-Msg-Id": f"part-{len(parts)}"}))
    return parts


def test_parts_count_as_one_only_where_they_may() -> None:
    digests, rejected = faultless()
    parts = in_parts(digests, 2)
    assert len(parts) > len(digests)
    longest = max(len(one.body) for one in parts)
    assert_exact(expected, parts, rejected, split_bytes=longest)
    with pytest.raises(AssertionError, match=f"{longest} bytes"):
        assert_exact(expected, parts, rejected, split_bytes=longest - 1)
    with pytest.raises(AssertionError, match=r"expected .*; found"):
        assert_exact(expected, parts, rejected)


def test_a_part_that_is_lost_or_doubled_is_noticed() -> None:
    digests, rejected = faultless()
    for at in range(10, 40):
        parts = in_parts(digests, 1)
        with pytest.raises(AssertionError, match=r"digest .* of "):
            assert_exact(expected, parts[:at] + parts[at + 1 :], rejected, split_bytes=10_000)
        doubled = [*parts[:at], renamed(parts[at]), *parts[at:]]
        with pytest.raises(AssertionError, match=r"digest .* of |one too many"):
            assert_exact(expected, doubled, rejected, split_bytes=10_000)


def test_refused_messages_move_the_clock_as_others_do() -> None:
    """A time too far ahead is arrival + skew, so a digest tells what the arrival was."""
    ahead = format_time(START + 10 * SKEW_NS)
    event = orjson.dumps({"UserID": "u", "AlarmID": "a", "Status": "WARNING", "ChangedAt": ahead})
    found = judge(
        [
            Stored(1, START + 5, "AlarmStatusChanged.x", b"{"),
            Stored(2, START + 3, "AlarmStatusChanged", event),
            Stored(3, START + 3, "SendAlarmDigest.y", b'{"UserID":"u"}'),
        ]
    )
    assert found.refused == {(b"{", "json", "AlarmStatusChanged.x"): 1}
    (entry,) = found.answers["u"][0].digest.entries
    assert isinstance(entry, Entry)
    assert entry.changed_at == START + 6 + SKEW_NS


@given(histories())
def test_a_model_for_each_user_says_what_one_model_says(history: History) -> None:
    one = Model(skew_ns=SKEW_NS, retention_ns=RETENTION_NS)
    each = UserModels(skew_ns=SKEW_NS, retention_ns=RETENTION_NS)
    for message, arrival in history:
        assert each.apply(message, arrival) == one.apply(message, arrival)
    assert each.clamped == one.clamped


def test_what_the_feeder_sends_depends_on_skew_retention_and_order() -> None:
    """Else a service that had one of them wrong would pass."""
    skew, retention = SHORT_SKEW_NS, SHORT_RETENTION_NS
    assert judge(alarms(), skew_ns=skew, retention_ns=retention).answers == expected.answers
    assert judge(alarms(), skew_ns=skew + 1, retention_ns=retention).answers != expected.answers
    assert judge(alarms(), skew_ns=skew, retention_ns=10**18).answers != expected.answers
    swapped = [*alarms()[1000:], *alarms()[:1000]]
    assert judge(swapped, skew_ns=skew, retention_ns=retention).answers != expected.answers


def test_the_feeder_gets_each_message_stored_once_and_in_order_over_kills_of_the_server() -> None:
    async def make(url: str) -> None:
        client = await nats.connect(url)
        subjects = ["AlarmStatusChanged.>", "SendAlarmDigest.>"]
        subjects += ["AlarmStatusChanged", "SendAlarmDigest", "ForgetUser", "ForgetUser.>"]
        await client.jetstream().add_stream(StreamConfig(name=ALARMS, subjects=subjects))
        await client.close()

    with NatsServer() as server:
        asyncio.run(make(server.url))
        with Feeder(server.url, seed=1, publishers=2, rate=5000) as feeder:
            for _ in range(2):
                feeder.wait_for(1000)
                server.kill()
                server.start()
            feeder.wait_for(1000)
            feeder.finish()
            assert feeder.connections >= 2 * 3
        found = read_stream(server.url, ALARMS)
        assert [one.sequence for one in found] == list(range(1, len(found) + 1))
        assert len(found) >= feeder.acknowledged >= 3000
        for inbox in {name.rpartition(".")[0] for name in ids(found)}:
            numbers = [
                int(name.rpartition(".")[2]) for name in ids(found) if name.startswith(inbox)
            ]
            # Every fifth is sent without an id.
            assert numbers == [one for one in range(1, numbers[-1] + 1) if one % 5]


def ids(found: list[Stored]) -> list[str]:
    return [one.headers["Nats-Msg-Id"] for one in found if one.headers]
