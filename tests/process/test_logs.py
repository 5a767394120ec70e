"""Log lines, as people and as programs read them."""

from __future__ import annotations

import ast
import json
import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from support.paths import ROOT

from alarmdigest.runtime.logs import Fields, JsonFormatter, LimitedLog, TextFormatter, Untrusted

SOURCES = ROOT / "alarmdigest"


class Lines(logging.Handler):
    """Keeps every record as both formats write it."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.json: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(TextFormatter().format(record).partition(" MainThread ")[2])
        self.json.append(json.loads(JsonFormatter().format(record)))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)


log = logging.getLogger("test.lines")


def test_fields_are_words_in_text_and_members_in_json(lines: Lines) -> None:
    log.info("connected%s", Fields(name="us", count=3, took=0.5, place=None))
    assert lines.text == ["connected name=us count=3 took=0.50 place=none"]
    [line] = lines.json
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", line.pop("ts"))
    assert line == {
        **{"level": "info", "thread": "MainThread", "logger": "test.lines", "msg": "connected"},
        **{"name": "us", "count": 3, "took": 0.5, "place": None},
    }


def test_fields_may_stand_within_a_sentence_or_end_it(lines: Lines) -> None:
    log.info("lost%s; %s goes on", Fields(reason=OSError("gone")), "nobody")
    log.info("what is there:%s", Fields(count=1))
    assert lines.text == ["lost reason=gone; nobody goes on", "what is there: count=1"]
    assert [line["msg"] for line in lines.json] == ["lost; nobody goes on", "what is there"]
    assert [lines.json[0]["reason"], lines.json[1]["count"]] == ["gone", 1]


def test_a_field_never_takes_the_place_of_what_every_line_has(lines: Lines) -> None:
    own = ("ts", "level", "thread", "logger", "msg", "traceback")
    log.info("mine%s", Fields(**dict.fromkeys(own, "theirs")))
    [line] = lines.json
    assert (line["level"], line["msg"]) == ("info", "mine")
    assert "theirs" not in [line.get(name) for name in own]
    assert [line[f"{name}_"] for name in own] == ["theirs"] * len(own)


def test_what_others_have_chosen_stays_on_its_line(lines: Lines) -> None:
    log.info("refused%s", Fields(subject=Untrusted("a\nb\u2028")))
    assert lines.text == [r"refused subject='a\nb\u2028'"]
    assert lines.json[0]["subject"] == "a\nb\u2028"


def test_a_limited_log_has_fields_and_counts_what_it_left_out(lines: Lines) -> None:
    limited = LimitedLog(log, logging.WARNING)
    for number in range(3):
        limited("again", number=number)
    limited.catch_up(at_once=True)
    assert lines.text == ["again number=0", "again and_more_since_last=2"]
    assert [line["msg"] for line in lines.json] == ["again", "again"]
    assert lines.json[1]["and_more_since_last"] == 2


def test_one_that_is_limited_tells_apart_what_it_is_about(lines: Lines) -> None:
    limited = LimitedLog(log, logging.WARNING)
    for server in ("a", "b", "a"):
        limited("cannot connect", server, server=server)
    assert lines.text == ["cannot connect server=a", "cannot connect server=b"]


def test_a_message_is_one_line_whatever_a_server_has_put_into_it(lines: Lines) -> None:
    said = "2.1\n2026-01-01T00:00:00.000Z ERROR MainThread forged \x1b[31m"
    log.info("connected%s", Fields(version=said))
    log.info("it said: %s", said)
    for line in lines.text:
        assert line.isprintable()
        assert r"2.1\n2026" in line


def test_what_json_does_not_know_is_text(lines: Lines) -> None:
    log.info("odd%s", Fields(one=math.nan, other=-math.inf))
    assert (lines.json[0]["one"], lines.json[0]["other"]) == ("nan", "-inf")


def test_nobody_writes_fields_into_the_text_of_a_message() -> None:
    looked_at = 0
    for source in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(call, ast.Call) and re.match(r"log\.\w+$", ast.unparse(call.func)):
                looked_at += 1
                texts = [one.value for one in ast.walk(call) if isinstance(one, ast.Constant)]
                for text in texts:
                    at = f"{source.name}:{call.lineno}"
                    assert not re.search(r"\w=%", str(text)), f"{at}: use Fields"
    assert looked_at > 30
