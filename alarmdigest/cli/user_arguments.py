"""The commands about one user, or all of them."""

from __future__ import annotations

import argparse
import time

from alarmdigest._ext import timestamps
from alarmdigest.cli.argument_helpers import (
    ITS_DATA_DIR,
    ITS_SERVER,
    add_json,
    add_option,
    add_settings,
    command,
)
from alarmdigest.cli.option_groups import GROUPS, OF_THE_STORE, TO_CONNECT
from alarmdigest.settings import duration
from alarmdigest.wire.queries import LONGEST_TRACE_S, MOST_TOP, ORDERS

TO_ASK = (*TO_CONNECT, "query_subject", "request_subject", "digest_subject", "group")
OF_HISTORY = (
    *("events_stream", "digests_stream", "js_domain", *TO_CONNECT, *GROUPS["subjects"]),
    *("retention", "clock_skew", "group"),
)
INPUT = ("mode", "events_stream", "js_domain", *TO_CONNECT)


def add_user_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = command(
        commands,
        "show",
        "one user's alarms, from the running service, or from the store",
        takes="USER",
        description="Asks the running service (of a group, its leader first), and reads the last\n"
        "checkpoint of the store where none answers, or where a store is named and\n"
        "--server is not. A user whose id begins with - is named behind --.",
    )
    # Not "user": that is the setting of the login.
    show.add_argument("whose", metavar="USER", help="the UserID")
    show.add_argument("--due", action="store_true", help="only what the next digest would hold")
    show.add_argument(
        "--from",
        dest="source",
        choices=("either", "service", "store"),
        default="either",
        help="who is asked (default: either)",
    )
    add_json(show)
    add_settings(show, (*TO_ASK, *OF_THE_STORE), {"data_dir": ITS_DATA_DIR, "server": ITS_SERVER})

    users = command(
        commands,
        "users",
        "who has alarms, and who waits for a digest, and how long",
        description="Asks the running service; of a group, its leader first.",
    )
    users.add_argument("--due", action="store_true", help="only users who have something due")
    users.add_argument("--active", action="store_true", help="only users with active alarms")
    add_option(users, "top", _top, "20", "N", f"how many of them, at most {MOST_TOP}")
    users.add_argument(
        "--sort",
        choices=ORDERS,
        default=ORDERS[0],
        help="who comes first: who waits longest, or has most due, active or other alarms "
        f"(default: {ORDERS[0]})",
    )
    add_json(users)
    add_settings(users, TO_ASK, {"server": ITS_SERVER})

    trace = command(
        commands,
        "trace",
        "have the service log each step of a user's messages for a while",
        takes="USER",
        description="Asks the running service, or all replicas of a group. Each logs every\n"
        "message of the user that it reads, what became of it, the digests, and when\n"
        "they are confirmed; 50 lines a second at most. It is off again by itself.",
    )
    trace.add_argument("whose", metavar="USER", help="the UserID")
    add_option(trace, "for", _seconds, "10m", "TIME", "how long, at most a day", dest="duration")
    trace.add_argument("--off", action="store_true", help="end it now")
    add_json(trace)
    add_settings(trace, TO_ASK, {"server": ITS_SERVER})

    history = command(
        commands,
        "history",
        "what became of each message about a user, or one alarm: why no digest came",
        takes="USER [ALARM]",
        description="Reads the streams, also while the service is down: every event and what\n"
        "became of it, every request and its digest, or why there was none. Subjects\n"
        "tell no user, so all messages since then are read.",
    )
    history.add_argument("whose", metavar="USER", help="the UserID")
    history.add_argument(
        "alarm", metavar="ALARM", nargs="?", help="only what is about this AlarmID"
    )
    add_option(history, "since", _since, "1h", "TIME", "how long ago to begin, or when (RFC 3339)")
    add_json(history)
    add_settings(history, OF_HISTORY, {"server": ITS_SERVER})

    forget = command(
        commands,
        "forget",
        "have a user forgotten, with all alarms",
        takes="USER",
        description="Sends the user's name to the service as any other input: where it stands in\n"
        "the stream all memory of the user ends, active alarms too. What the streams\n"
        "hold stays there until its age ends. See docs/forgetting.md.",
    )
    forget.add_argument("whose", metavar="USER", help="the UserID")
    add_json(forget)
    add_settings(forget, (*INPUT, "forget_subject", "no_create_streams"), {"server": ITS_SERVER})

    clear = command(
        commands,
        "clear",
        "have one alarm of a user cleared",
        takes="USER ALARM",
        description="Sends an ordinary event: CLEARED, changed now, or right after the event that\n"
        "it clears, where the service knows one that says a later time.",
    )
    clear.add_argument("whose", metavar="USER", help="the UserID")
    clear.add_argument("alarm", metavar="ALARM", help="the AlarmID")
    add_json(clear)
    add_settings(clear, (*INPUT, *TO_ASK, "event_subject"), {"server": ITS_SERVER})


def _top(text: str) -> int:
    """Raises ValueError."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_TOP:
        raise ValueError(f"{text!r} is no number from 1 to {MOST_TOP}")
    return int(text)


def _seconds(text: str) -> int:
    """Raises ValueError."""
    seconds = -(-duration(text) // 10**9)
    if not 1 <= seconds <= LONGEST_TRACE_S:
        raise ValueError(f"{text!r} is not a time of up to a day, like 10m")
    return seconds


def _since(text: str) -> int:
    """In ns since 1970. Raises ValueError."""
    try:
        return time.time_ns() - duration(text)
    except ValueError:
        pass
    try:
        return timestamps.to_ns(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a duration like 15m, 1h or 7d nor a time like "
            "2026-01-31T12:00:00Z"
        ) from None
