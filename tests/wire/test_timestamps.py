"""Times are read and written as the contract says, and as the model does, over the whole range."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import BEYOND, EARLIEST, FAR_FUTURE, SECOND_NS, format_time, parse_time
from support.scale import cases

from alarmdigest._ext.timestamps import to_ns, to_text

NOON = 1_623_098_415 * SECOND_NS  # 2021-06-07T20:40:15Z

ACCEPTED = [
    ("2021-06-07T20:40:15Z", NOON),
    ("2021-06-07T20:40:15.598765212Z", NOON + 598_765_212),
    ("2021-06-07t20:40:15z", NOON),
    ("2021-06-07T20:40:15.5z", NOON + 500_000_000),
    ("2021-06-07T20:40:15.000000001Z", NOON + 1),
    ("2021-06-07T20:40:15.0000000019Z", NOON + 1),
    ("2021-06-07T20:40:15.9999999999999999999999999999Z", NOON + 999_999_999),
    ("2021-06-07T20:40:15." + "1" * 2_000 + "Z", NOON + 111_111_111),
    ("2021-06-07T20:40:15+00:00", NOON),
    ("2021-06-07T20:40:15-00:00", NOON),
    ("2021-06-07T22:40:15+02:00", NOON),
    ("2021-06-07T22:40:15.25+02:00", NOON + 250_000_000),
    ("2021-06-07T15:10:15-05:30", NOON),
    ("2021-06-08T20:39:15+23:59", NOON),
    ("2021-06-06T20:41:15-23:59", NOON),
    ("2016-12-31T23:59:60Z", 1_483_228_800 * SECOND_NS),
    ("2016-12-31T23:59:60.999999999Z", 1_483_228_800 * SECOND_NS),
    ("2017-01-01T05:29:60+05:30", 1_483_228_800 * SECOND_NS),
    ("2021-06-07T20:39:60Z", NOON - 15 * SECOND_NS),
    ("2020-02-29T00:00:00Z", 1_582_934_400 * SECOND_NS),
    ("2000-02-29T00:00:00Z", 951_782_400 * SECOND_NS),
    ("1970-01-01T00:00:00Z", 0),
    ("1969-12-31T23:59:59.999999999Z", -1),
    ("1969-12-31T23:59:59Z", -SECOND_NS),
    ("1900-02-28T23:59:60Z", -2_203_891_200 * SECOND_NS),
    ("1677-09-22T00:00:00Z", EARLIEST),
    ("1677-09-21T23:59:60Z", EARLIEST),
    ("1677-09-21T00:01:00-23:59", EARLIEST),
    ("2262-04-10T23:59:59.999999999Z", BEYOND - 1),
    ("2262-04-11T00:00:00Z", FAR_FUTURE),
    ("2262-04-10T23:59:60Z", FAR_FUTURE),
    ("2262-04-10T00:01:00-23:59", FAR_FUTURE),
    ("2262-04-11T00:00:00+00:01", BEYOND - 60 * SECOND_NS),
    ("9999-12-31T23:59:60.999999999-23:59", FAR_FUTURE),
]

REFUSED = [
    *("", "Z", "2021", "now", "1623098415", "2021-06-07", "20:40:15Z", "2021-06-07T20:40Z"),
    *("2021-06-07T20:40:15", "2021-06-07T20:40:15.5", "2021-06-07T20:40:15.", "x" * 100_000),
    *("2021-06-07 20:40:15Z", "2021-06-07_20:40:15Z", "2021-06-07\0" + "20:40:15Z"),
    *(" 2021-06-07T20:40:15Z", "2021-06-07T20:40:15Z ", "2021-06-07T20:40:15Z\n"),
    *("2021-06-07T20:40:15Z\0", "2021-06-07T20:40:15ZZ", "2021-06-07T20:40:15.5Z5"),
    *("2021-06-07T20:40:15.Z", "2021-06-07T20:40:15,5Z", "2021-06-07T20:40:15.5.5Z"),
    *("2021-06-07T20:40:15.-5Z", "2021-06-07T20:40:15. 5Z", "2021-06-07T20:40:15.+00:00"),
    *("2021-06-07T20:40:15+2:00", "2021-06-07T20:40:15+0200", "2021-06-07T20:40:15+02"),
    *("2021-06-07T20:40:15+02:0", "2021-06-07T20:40:15+02:000", "2021-06-07T20:40:15+02:00Z"),
    *("2021-06-07T20:40:15+24:00", "2021-06-07T20:40:15-24:00", "2021-06-07T20:40:15+02:60"),
    *("2021-06-07T20:40:15+02.00", "2021-06-07T20:40:15 +02:00", "2021-06-07T20:40:15Z+02:00"),
    *("2021-06-07T20:40:15UTC", "2021-06-07T20:40:15A", "2021-06-07T20:40:15\u221202:00"),
    *("2021-06-07T24:00:00Z", "2021-06-07T20:60:15Z", "2021-06-07T20:40:61Z"),
    "2021-06-07T20:40:99Z",
    *("2021-00-07T20:40:15Z", "2021-13-07T20:40:15Z", "2021-06-00T20:40:15Z"),
    "2021-06-31T20:40:15Z",
    *("2021-04-31T00:00:00Z", "2021-09-31T00:00:00Z", "2021-11-31T00:00:00Z"),
    "2021-01-32T00:00:00Z",
    *("2021-02-29T00:00:00Z", "2020-02-30T00:00:00Z", "1900-02-29T00:00:00Z"),
    "2100-02-29T00:00:00Z",
    *("21-06-07T20:40:15Z", "02021-06-07T20:40:15Z", "+2021-06-07T20:40:15Z"),
    "-2021-06-07T20:40:15Z",
    *("2021-6-07T20:40:15Z", "2021-06-7T20:40:15Z", "2021-06-07T2:40:15Z", "2021/06/07T20:40:15Z"),
    *("20210607T204015Z", "2021-W23-1T20:40:15Z", "2021-06-07T20-40-15Z", "2021-06-07T20:40:1.5Z"),
    *("\uff12\uff10\uff12\uff11-06-07T20:40:15Z", "2021-06-07T20:40:1\u0665Z"),
    *("2021-06-07T20:40:15.\u0665Z", "2021-06-07T20:40:15.5\u00b2Z"),
    *("0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "1677-09-21T23:59:59.999999999Z"),
    *("1677-09-22T00:00:00+00:01", "1677-09-21T00:12:43.145224192Z"),
]


@pytest.mark.parametrize(("text", "ns"), ACCEPTED)
def test_a_time_is_read(text: str, ns: int) -> None:
    assert to_ns(text) == ns
    assert parse_time(text) == ns


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an RFC 3339 time"):
        to_ns(text)
    with pytest.raises(ValueError, match=r"RFC 3339|before|day|month|year"):
        parse_time(text)


def test_a_time_that_is_no_str_is_a_type_error() -> None:
    for wrong in (None, b"2021-06-07T20:40:15Z", 1):
        with pytest.raises(TypeError):
            to_ns(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-SECOND_NS, "1969-12-31T23:59:59.000000000Z"),
        (-86_400 * SECOND_NS - 1, "1969-12-30T23:59:59.999999999Z"),
        (NOON + 598_765_212, "2021-06-07T20:40:15.598765212Z"),
        (951_782_400 * SECOND_NS, "2000-02-29T00:00:00.000000000Z"),
        (EARLIEST, "1677-09-22T00:00:00.000000000Z"),
        (BEYOND - 1, "2262-04-10T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (-(2**63), "1677-09-21T00:12:43.145224192Z"),
    ],
)
def test_a_time_is_written_in_utc_with_nine_digits(ns: int, text: str) -> None:
    assert to_text(ns) == text


@settings(max_examples=cases(1_000, 20_000), deadline=None)
@given(st.integers(EARLIEST, BEYOND - 1))
def test_what_is_written_reads_as_the_same_time(ns: int) -> None:
    text = to_text(ns)
    assert text == format_time(ns)
    assert to_ns(text) == ns


def test_every_day_that_64_bits_hold_is_written_and_read() -> None:
    day = 86_400 * SECOND_NS
    for midnight in range(EARLIEST, BEYOND, day * cases(13, 1)):
        for ns in (midnight, midnight + day - 1):
            assert to_text(ns) == format_time(ns)
            assert to_ns(to_text(ns)) == ns


PIECES = [
    "0",
    "1",
    "5",
    "9",
    "-",
    "+",
    ":",
    ".",
    "T",
    "t",
    "Z",
    "z",
    " ",
    "\0",
    "é",
    "\u0663",
    "60",
    "00",
]


def test_mutated_times_read_as_the_model_reads_them() -> None:
    rng = random.Random(1677)
    seeds = [text for text, _ in ACCEPTED if len(text) < 50]
    accepted = 0
    for _ in range(cases(30_000, 1_000_000)):
        text = rng.choice(seeds)
        for _ in range(rng.randint(1, 2)):
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice(PIECES) + text[place + rng.choice((0, 1, 1, 1)) :]
        try:
            expected = parse_time(text)
        except ValueError:
            with pytest.raises(ValueError, match="RFC 3339"):
                to_ns(text)
        else:
            accepted += 1
            assert to_ns(text) == expected, text
    assert accepted > cases(1_000, 30_000), "the mutations leave hardly a time intact"
