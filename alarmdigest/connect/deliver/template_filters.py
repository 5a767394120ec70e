"""Filters of templates: times as people read them, and of Jinja's own those that cannot grow a text
without bound.

``safe`` is not among them: what strangers have written never goes into a mail unescaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from jinja2.filters import FILTERS
from markupsafe import Markup, escape

from alarmdigest.connect.deliver.template_limits import LimitExceeded, check_length

JINJAS_OWN = (
    *("abs", "capitalize", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby"),
    *("int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject"),
    *("rejectattr", "round", "select", "selectattr", "sort", "string", "title", "trim"),
    *("truncate", "unique", "upper", "urlencode"),
)
# Other letters take a width, as in %1000000d, or depend on the machine's language.
_FORMAT = re.compile(r"(?:[^%]|%[aAbBdHIjmMpSyYZz%])*")
USUAL_FORMAT = "%a %d %b %Y, %H:%M %Z"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def built_in_filters() -> Mapping[str, Callable[..., Any]]:
    """All but ``time``, which needs a zone."""
    own = {"duration": duration, "indent": indent, "join": join, "replace": replace}
    return {**{name: FILTERS[name] for name in JINJAS_OWN}, **own}


def local_time(ns: int, zone: ZoneInfo, form: str = USUAL_FORMAT) -> str:
    """``Tue 24 Nov 2026, 10:12 CET`` of nanoseconds since 1970 UTC."""
    if not _FORMAT.fullmatch(form):
        raise ValueError(f"time: {form!r:.80} may have % with one of aAbBdHIjmMpSyYZz only")
    try:
        at = (_EPOCH + timedelta(microseconds=ns // 1000)).astimezone(zone)
    except OverflowError:
        return "at an unknown time"
    name = at.strftime("%Z")
    if name[:1] in "+-":  # places whose zone has no letters
        form = form.replace("%Z", f"UTC{name}")
    return at.strftime(form)


def duration(ns: int) -> str:
    """``2 h 5 min``: the two largest units."""
    left = max(ns, 0) // 10**9
    if left < 60:
        return "less than a minute"
    parts: list[tuple[int, str]] = []
    for unit, seconds in _UNITS:
        number, left = divmod(left, seconds)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def indent(text: str, width: int = 2) -> str:
    """Every line but the first moves to the right."""
    if not 0 <= width <= 40:
        raise LimitExceeded("indent: at most 40 characters")
    check_length(len(text) + width * text.count("\n"))
    return text.replace("\n", "\n" + " " * width)


def join(values: Iterable[Any], between: str = "") -> str:
    """Escaped, if one of them or ``between`` is HTML already."""
    parts = [one if isinstance(one, str) else str(one) for one in values]
    check_length(sum(map(len, parts)) + len(between) * len(parts))
    if any(isinstance(one, Markup) for one in (*parts, between)):
        return escape(between).join(map(escape, parts))
    return between.join(parts)


def replace(text: str, old: str, new: str) -> str:
    if isinstance(text, Markup):
        old, new = escape(old), escape(new)
    check_length(len(text) + text.count(old) * len(new))
    return text.replace(old, new)
