"""Digests reach people: by mail and by HTTP, in order, once, and what cannot be is kept."""

from __future__ import annotations

import re

import pytest
from support.bridge import Streams
from support.deliver import DeliverProcess, Digests, routes
from support.nats_server import NatsServer
from support.receivers import MailServer, WebServer, text_of
from support.wait import eventually

pytestmark = pytest.mark.deliver
ADA = '[users."ada"]\nmail = "ada@example.com"\n'


def all_acknowledged(digests: Digests) -> None:
    eventually(lambda: digests.unacknowledged() == 0, what="all acknowledged", timeout=20)


def test_a_digest_becomes_a_mail_and_is_acknowledged(
    server: NatsServer, digests: Digests, mails: MailServer
) -> None:
    mail = f'{mails.url()}"\nunsubscribe = "https://example.com/off?user={{UserID}}'
    with DeliverProcess(server.url, routes=routes({"mail": mail}, ADA)) as deliver:
        number = digests.publish("ada", "disk-7", "disk-8")
        eventually(lambda: mails.mails, what="the mail", timeout=20)
        all_acknowledged(digests)
        assert deliver.metric('alarmdigest_deliver_sent_total{target="mail"}') == 1
        assert deliver.metric("alarmdigest_deliver_seconds_count") == 1
        assert deliver.stop() == 0
    [mail_of_ada] = mails.mails
    assert mails.recipients == [["ada@example.com"]]
    assert "disk-7" in text_of(mail_of_ada)
    html = mail_of_ada.get_body(("html",))
    assert html is not None
    assert "disk-8" in html.get_content()
    assert mail_of_ada["List-Unsubscribe"] == "<https://example.com/off?user=ada>"
    assert len(mail_of_ada.get_all("Message-ID") or []) == 1
    assert re.fullmatch(r"<[0-9a-f]{40}@example\.com>", mail_of_ada["Message-ID"])
    assert number


def test_each_user_gets_his_in_order_by_each_target(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    targets = {"one": web.url("one/{UserID}"), "two": web.url("two/{UserID}")}
    with DeliverProcess(server.url, routes=routes(targets)):
        for number in range(40):
            digests.publish(f"user-{number % 4}", f"alarm-{number:02}")
        all_acknowledged(digests)
    for target in ("one", "two"):
        for user in range(4):
            told = "".join(web.of(f"{target}/user-{user}"))
            found = re.findall(r"alarm-(\d\d)", told)
            numbers = list(dict.fromkeys(found))
            assert numbers == [f"{number:02}" for number in range(user, 40, 4)]


def test_a_target_that_is_blocked_stops_no_other_one(
    server: NatsServer, digests: Digests, mails: MailServer, web: WebServer
) -> None:
    mails.refuse = lambda _address: "451 come back later"
    targets = {"mail": mails.url("{UserID}@example.com"), "web": web.url()}
    with DeliverProcess(server.url, routes=routes(targets)) as deliver:
        for number in range(20):
            digests.publish("ada", f"alarm-{number:02}")
        eventually(lambda: len(web.of("ada")) == 20, what="all by the other target", timeout=20)
        assert mails.mails == []
        assert digests.unacknowledged() == 20
        assert deliver.metric("alarmdigest_deliver_lanes_blocked") == 1
        mails.refuse = lambda _address: ""
        eventually(lambda: len(mails.mails) == 20, what="all by mail, too", timeout=30)
        all_acknowledged(digests)
    order = [re.findall(r"alarm-\d\d", text)[0] for text in mails.texts()]
    assert order == [f"alarm-{number:02}" for number in range(20)]


def test_what_is_refused_again_and_again_becomes_a_dead_letter_and_the_lane_goes_on(
    server: NatsServer, digests: Digests, mails: MailServer
) -> None:
    mails.refuse = lambda _address: "550 no such user"
    text = routes({"mail": mails.url()}, ADA).replace("[sending]", "[sending]\nattempts = 3")
    with DeliverProcess(server.url, routes=text) as deliver:
        number = digests.publish("ada", "disk-7")
        eventually(digests.dead_letters, what="the dead letter", timeout=20)
        all_acknowledged(digests)
        mails.refuse = lambda _address: ""
        digests.publish("ada", "disk-8")
        eventually(lambda: mails.mails, what="the next mail", timeout=20)
        assert deliver.metric('alarmdigest_deliver_dead_total{reason="attempts"}') == 1
    [dead] = digests.dead_letters()
    assert (dead["UserID"], dead["target"], dead["reason"]) == ("ada", "mail", "attempts")
    assert dead["attempts"] == 3
    assert "550 no such user" in dead["detail"]
    assert dead["digests"][0]["id"] == number
    assert dead["digests"][0]["body"]["ActiveAlarms"][0]["AlarmID"] == "disk-7"


def test_a_user_whom_no_route_covers_is_a_dead_letter(
    server: NatsServer, digests: Digests, mails: MailServer
) -> None:
    text = routes({"mail": mails.url()}).replace('users = ["*"]', 'users = ["ada"]')
    with DeliverProcess(server.url, routes=text) as deliver:
        digests.publish("bob", "disk-7")
        digests.publish("ada", "disk-7")  # nobody knows his address
        eventually(lambda: len(digests.dead_letters()) == 2, what="dead letters", timeout=20)
        all_acknowledged(digests)
        assert deliver.metric('alarmdigest_deliver_dead_total{reason="no_route"}') == 1
    assert sorted(one["reason"] for one in digests.dead_letters()) == ["no_address", "no_route"]


def test_the_parts_of_a_split_digest_become_one_mail(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    large = [f"alarm-{number:03}-{'x' * 400}" for number in range(40)]
    with DeliverProcess(server.url, routes=routes({"web": web.url()})):
        digests.publish("ada", *large, request="7 1")
        digests.publish("ada", "the-last-part", request="7 1")
        digests.publish("ada", "the-next-digest", request="8 2")
        all_acknowledged(digests)
    first, second = web.of("ada")
    assert "the-last-part" in first
    assert "alarm-000" in first
    assert "the-next-digest" in second


def test_what_is_no_digest_is_kept_and_holds_up_nobody(
    server: NatsServer, streams: Streams, digests: Digests, web: WebServer
) -> None:
    hostile = [b"", b"{", b"[]", b'{"UserID": 7, "ActiveAlarms": []}', b'{"UserID": "ada"}']
    for body in hostile:
        streams.publish("AlarmDigest", body)
    with DeliverProcess(server.url, routes=routes({"web": web.url()})):
        digests.publish("ada", "disk-7")
        all_acknowledged(digests)
    assert len(web.of("ada")) == 1
    assert [one["reason"] for one in digests.dead_letters()] == ["unreadable"] * len(hostile)
