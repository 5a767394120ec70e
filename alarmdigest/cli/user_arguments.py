"""The commands about one user, or all of them."""

from __future__ import annotations

import argparse

from alarmdigest.cli.argument_helpers import (
    ITS_DATA_DIR,
    ITS_SERVER,
    add_json,
    add_settings,
    command,
)
from alarmdigest.cli.option_groups import OF_THE_STORE, TO_CONNECT

INPUT = ("mode", "events_stream", "js_domain", *TO_CONNECT)


def add_user_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = command(
        commands,
        "show",
        "one user's alarms, from the store",
        takes="USER",
        description="Reads the last checkpoint in --data-dir, or in Cassandra, also while the\n"
        "service runs. A user whose id begins with - is named behind --.",
    )
    # Not "user": that is the setting of the login.
    show.add_argument("whose", metavar="USER", help="the UserID")
    show.add_argument("--due", action="store_true", help="only what the next digest would hold")
    add_json(show)
    add_settings(show, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

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
        description="Sends an ordinary event: CLEARED, changed now. One that says it was changed\n"
        "later still wins.",
    )
    clear.add_argument("whose", metavar="USER", help="the UserID")
    clear.add_argument("alarm", metavar="ALARM", help="the AlarmID")
    add_json(clear)
    add_settings(clear, (*INPUT, "event_subject"), {"server": ITS_SERVER})
