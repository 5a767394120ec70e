"""Whoever may send alarms writes their texts: none of them leaves its place in a message."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alarmdigest.connect.deliver.clean_text import block, for_chat, one_line, web_link
from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, AlarmLine, Message
from alarmdigest.connect.deliver.rendering import MAX_BYTES, SHORT_CHARS, SUBJECT_CHARS, Renderer
from alarmdigest.connect.deliver.sample_messages import FULL
from alarmdigest.connect.deliver.shown import TITLE_CHARS

ROWS = 7
RENDERER = Renderer(None, most_rows=ROWS)
ZONE = ZoneInfo("Europe/Berlin")
VOID = {"meta", "br"}

hostile = st.one_of(
    st.text(max_size=40),
    st.text(
        st.sampled_from("<>&\"'`*_~|[]()@!#{}%\\\r\n\t\0\u202e\u2066\u2028\ud800a"), max_size=40
    ),
    st.sampled_from(
        (
            *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "]]>"),
            *("</td></tr></table>", "<!here> <@U123> @channel", "[x](http://evil.example.com)"),
            *("a" * 5000, "\u0300" * 300, "\r\nBcc: all@example.com", "--><b>", "&lt;b&gt;"),
        )
    ),
)
texts = st.dictionaries(hostile, hostile, max_size=8)
links = st.dictionaries(hostile, hostile | hostile.map(lambda text: f"https://a.b/{text}"))
statuses = st.sampled_from((WARNING, CRITICAL, CLEARED))
lines = st.builds(
    AlarmLine,
    hostile.filter(bool),
    statuses,
    st.integers(-(2**63), 2**63),
    *(hostile, hostile, hostile, texts, links),
    st.just("") | statuses,
)
some = st.lists(lines, max_size=6).map(tuple)
messages = st.builds(
    Message, hostile, st.integers(-(2**63), 2**63), st.just(("d",)), some, some, some, st.booleans()
)


class Tags(HTMLParser):
    """The tags with their attributes, and that each is closed in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _value in attrs)))
        self.links += [value or "" for name, value in attrs if name == "href"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVERYTHING = RENDERER.render(
    replace(FULL, state_known=False, cleared=FULL.cleared * ROWS),
    zone=ZONE,
    unsubscribe="https://a.b/c",
)
KNOWN_TAGS = {*Tags(EVERYTHING.html).tags}


def is_shown(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") and (
        unicodedata.category(char) != "Cf" or char in "\u200c\u200d"
    )


@settings(max_examples=25, deadline=None)
@given(messages)
def test_whatever_stands_in_a_message(message: Message) -> None:
    told = RENDERER.render(message, zone=ZONE, unsubscribe="https://a.b/c")
    everything = (told.subject, told.text, told.html, told.short)
    assert all(is_shown(char) for text in everything for char in text.replace("\n", ""))
    for text in everything:
        text.encode()  # no half of a pair of surrogates

    tags = Tags(told.html)
    assert set(tags.tags) <= KNOWN_TAGS
    assert all(re.match(r"https?://[^\s\"'<>]+$", link) for link in tags.links)

    assert "\n" not in told.subject
    assert 0 < len(told.subject) <= SUBJECT_CHARS
    mail = EmailMessage(policy=policy.SMTP)
    mail["Subject"] = told.subject
    again = message_from_bytes(mail.as_bytes(), policy=policy.SMTP)
    assert list(again) == ["Subject"]

    assert len(told.short) <= SHORT_CHARS
    assert not re.search(r"[<>`*~]|@\S|\]\(|\|\|", told.short)

    total = len((*message.new, *message.still_active, *message.cleared))
    assert (f"\nand {total - ROWS} more\n" in told.text) is (total > ROWS)
    shown = " ".join(tags.text.split())
    for line in message.new[:ROWS]:
        if len(message.new) <= ROWS:
            assert title_of(line) in told.text
            assert title_of(line) in shown


def title_of(line: AlarmLine) -> str:
    return one_line(line.name, TITLE_CHARS) or one_line(line.alarm_id, TITLE_CHARS)


@given(st.text(max_size=60))
def test_a_cleaned_text_stays_as_it_is(text: str) -> None:
    once = one_line(text, 30)
    assert one_line(once, 30) == once
    assert len(once) <= 30
    assert all(is_shown(char) for char in once)
    assert all(is_shown(char) for char in block(text, 30).replace("\n", ""))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("disk  of\tdb1\r\nis full", "disk of db1 is full"),
        ("\u202egnp.exe", "gnp.exe"),
        ("a\u2028b\0c\x7f\x85d", "a b c d"),
        ("\u05d0\u200d\u05d1", "\u05d0\u200d\u05d1"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("x\ud800y", "x\ufffdy"),
        ("Z" + "\u0301" * 50 + "y", "Z" + "\u0301" * 4 + "y"),
        ("x" * 31, "x" * 29 + "\u2026"),
        ("  ", ""),
    ],
)
def test_one_line(text: str, cleaned: str) -> None:
    assert one_line(text, 30) == cleaned


def test_the_lines_of_a_block_stay() -> None:
    assert block("\n\na  b\r\n\r\nc\u202e\n", 30) == "a b\n\nc"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@channel @here", "@ channel @ here"),
        ("ada@example.com", "ada@ example.com"),
        ("<!here> <@U1> <http://x|y>", "\u2039!here\u203a \u2039@ U1\u203a \u2039http://x|y\u203a"),
        ("*bold* `code` ~gone~", "\u2217bold\u2217 'code' -gone-"),
        ("_slanted_ __init__ node_cpu_high", "-slanted- --init-- node_cpu_high"),
        ("[text](http://x) ||spoiler||", "[text] (http://x) | |spoiler| |"),
        ("||||", "| | | |"),
        ("load > 5 & rising", "load \u203a 5 & rising"),
    ],
)
def test_nothing_calls_people_or_is_markup_in_a_chat(text: str, said: str) -> None:
    assert for_chat(text) == said


def test_the_short_text_is_for_chats() -> None:
    line = AlarmLine("a", CRITICAL, 0, name="<!here> *x*", summary="@channel")
    told = RENDERER.render(Message("u", 0, (), (line,), (), (), True), zone=ZONE)
    assert "\u2039!here\u203a \u2217x\u2217: @ channel" in told.short
    assert "<!here> *x*" in told.text  # a mail knows no such marks


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("https://wiki.example.com/a?b=1&c=2#d", "https://wiki.example.com/a?b=1&c=2#d"),
        ("http://[::1]:9090/graph", "http://[::1]:9090/graph"),
        ('http://x/?q={a="b"}', "http://x/?q=%7Ba=%22b%22%7D"),
        ("http://x/'><b>", "http://x/%27%3E%3Cb%3E"),
        ("javascript:alert(1)", ""),
        ("HTTPS://wiki.example.com", ""),
        ("data:text/html,x", ""),
        ("//evil.example.com", ""),
        ("https:///path", ""),
        ("https://bank.example.com@evil.example.com/", ""),
        ("https://a b/", ""),
        ("https://a/\nb", ""),
        ("https://a/\u202eb", ""),
        ("https://[bad", ""),
        ("https://a/" + "b" * 2000, ""),
    ],
)
def test_links_are_addresses_of_web_pages(url: str, link: str) -> None:
    assert web_link(url) == link


def test_as_much_as_there_can_be_makes_fewer_rows_and_no_failure() -> None:
    line = AlarmLine(
        *("x" * 1024, CRITICAL, 0, "&" * 900, "'" * 900, "d" * 4000),
        {f"{n}{'<' * 90}": "&" * 900 for n in range(6)},
        {str(n): "https://a.b/?" + "&" * 900 for n in range(9)},
    )
    many = Message("u" * 1024, 0, ("d" * 32,) * 1000, (line,) * 500, (line,) * 500, (), True)
    told = Renderer(None, most_rows=400).render(many, zone=ZONE)
    assert len(told.html.encode()) <= MAX_BYTES
    shown = told.html.count("<strong")
    assert 20 <= shown < 400
    assert f"and {1000 - shown} more" in told.html
    assert len(told.text.encode()) <= MAX_BYTES
