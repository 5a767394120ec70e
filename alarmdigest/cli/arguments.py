"""What can be written on the command line: the commands, their options, and what --help says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from alarmdigest import __version__
from alarmdigest.cli.argument_helpers import (
    ITS_DATA_DIR,
    ITS_SERVER,
    Help,
    add_json,
    add_option,
    add_settings,
    command,
    with_message,
)
from alarmdigest.cli.connect_arguments import add_connect_commands
from alarmdigest.cli.option_groups import (
    EVERYTHING,
    EVERYWHERE,
    OF_A_GROUP,
    OF_SNAPSHOTS,
    OF_THE_STORE,
    TO_CONNECT,
    TO_TRY,
)
from alarmdigest.cli.user_arguments import add_user_commands
from alarmdigest.settings import duration, positive

DESCRIPTION = """\
Takes alarm changes from NATS, keeps the latest state of every alarm of every
user, and answers a digest request with one message: that user's active alarms
that are new or changed since the last.
"""

EPILOG = """\
Every option of run is also an environment variable, --log-level is
ALARMDIGEST_LOG_LEVEL, and a key of a settings file; the other commands read
these as well, so that they find the service where it is. NATS_URL names
servers, too; the variables and contexts of the nats tool are known. Without a
server, the one on 127.0.0.1:4222 is used; if there is none, run starts an
embedded one there.

exit codes: 0 clean, 1 internal error or failed check, 2 usage or
configuration, 3 NATS not reachable in time, 4 store unusable, 5 drain timed out
"""

COMMANDS = (
    *("run", "verify", "emulate", "status", "members", "step-down", "snapshot"),
    *(
        "show",
        "users",
        "trace",
        "history",
        "forget",
        "clear",
        "rejected",
        "backup",
        "copy-store",
        "schema",
        "check-config",
        "bridge",
        "schedule",
        "scheduler",
        "deliver",
    ),
)

# What may be left out stands behind options, too: argparse would take it for left out there.
WITH_OPTIONAL_ARGUMENT = ("history", "schedule")


def parser() -> argparse.ArgumentParser:
    """That of all commands. ``command`` says which it was."""
    whole = argparse.ArgumentParser(
        prog="alarmdigest",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=Help,
        allow_abbrev=False,
        usage="%(prog)s [run | COMMAND] [options]    (COMMAND --help for its options)",
    )
    whole.add_argument("--version", action="version", version=f"alarmdigest {__version__}")
    commands = whole.add_subparsers(
        dest="command",
        metavar="COMMAND [options]",
        required=True,
        prog="alarmdigest",
        title="commands",
    )

    run = command(
        commands,
        "run",
        "the service (what you get when you name no command)",
        description=DESCRIPTION,
    )
    add_settings(run, EVERYTHING)

    verify = command(
        commands,
        "verify",
        "a smoke test against a running service",
        description="Sends alarms and requests for a user nobody else has, and checks the\n"
        "digests.",
    )
    add_option(verify, "timeout", duration, "10s", "TIME", "how long to wait for each digest")
    add_settings(verify, TO_TRY, {"server": ITS_SERVER})

    emulate = command(
        commands,
        "emulate",
        "traffic for a running service, and a check of what it answers",
        description="Publishes shots of bursts: each item one alarm and one digest request for a\n"
        "fresh user, on the numbered subject and on the plain one; then accounts for\n"
        "every digest.",
    )
    add_option(emulate, "shots", positive, "200", "N", "how many shots")
    add_option(emulate, "bursts", positive, "60", "N", "how many users in a shot")
    add_option(emulate, "wait", duration, "15ms", "TIME", "pause between two shots")
    add_settings(emulate, TO_TRY, {"server": ITS_SERVER})

    status = command(
        commands,
        "status",
        "how a running service is, as its page shows it",
        description="Asks the service at --http and shows what its page shows.",
    )
    add_json(status)
    add_settings(
        status, ("http", *EVERYWHERE), {"http": "where the service serves HTTP, as its log says"}
    )

    members = command(
        commands,
        "members",
        "the replicas of a group: who leads, and how far each is",
        description="Reads what the replicas of a group last told of themselves.",
    )
    add_json(members)
    which = {"group": "the group (default: the only one that is there)"}
    add_settings(members, OF_A_GROUP, which)

    down = command(
        commands,
        "step-down",
        "have another replica of a group elected",
        description="Asks the leader to have another replica elected, and waits until one is.",
    )
    down.add_argument("--to", default="", metavar="NAME", help="this one (default: the readiest)")
    add_option(down, "timeout", duration, "10s", "TIME", "how long to wait for an answer")
    add_settings(down, OF_A_GROUP, which)

    snapshot = command(
        commands,
        "snapshot",
        "a copy of the state in JetStream, made now; or a list of those that are there",
        description="Writes the last checkpoint in --data-dir to JetStream's object store, also\n"
        "while the service runs. A start with an empty data directory can go on from it.",
    )
    snapshot.add_argument("--list", action="store_true", help="make none; show those of the group")
    add_json(snapshot)
    add_settings(
        snapshot,
        OF_SNAPSHOTS,
        {"data_dir": ITS_DATA_DIR, "group": "the group that the state is one of (default: none)"},
    )

    add_user_commands(commands)

    rejected = command(
        commands,
        "rejected",
        "the messages that were rejected last, and why",
        description="Shows the end of the stream of rejected messages: number, time, reason,\n"
        "size, subject and detail. Without JetStream, or with --mode core, those that\n"
        "come from now on.",
    )
    add_option(rejected, "last", positive, "20", "N", "how many to show")
    rejected.add_argument("--follow", action="store_true", help="and then those that come")
    rejected.add_argument("--body", action="store_true", help="show the messages themselves, too")
    add_json(rejected)
    rejected.add_argument(
        "--refeed",
        type=with_message(_sequences),
        metavar="SEQ[,SEQ]",
        help="show nothing; publish the messages of these numbers once more where they came in",
    )
    add_settings(
        rejected,
        (
            *("mode", "rejected_stream", "js_domain", *TO_CONNECT),
            *("event_subject", "request_subject", "forget_subject", "rejected_subject"),
        ),
        {
            "server": ITS_SERVER,
            "mode": "core = look for no stream and show what comes from now on; stream = end if "
            "there is none; auto = from the stream where the server has JetStream",
            "event_subject": "messages are fed again here and below it",
            "request_subject": "and here",
            "forget_subject": "and here",
            "rejected_subject": "where rejected messages are listened to without a stream",
        },
    )

    backup = command(
        commands,
        "backup",
        "a checked copy of the store, also while the service runs",
        takes="TARGET",
        description="Copies the last checkpoint in --data-dir, or in Cassandra, to TARGET/state,\n"
        "reads every row of the copy once, and holds up nobody.",
    )
    backup.add_argument(
        "target", metavar="TARGET", help="a directory without a backup in it; made if need be"
    )
    add_json(backup)
    add_settings(backup, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

    copy = command(
        commands,
        "copy-store",
        "the state of one store written to another one that is empty",
        description="Copies the last checkpoint between the data directory and Cassandra, and\n"
        "reads it back. Stop the service before, and start it with the other store.",
    )
    for name, text in (("from", "the store to read"), ("to", "the store to write, empty")):
        copy.add_argument(
            f"--{name}",
            dest=f"{name}_kind",
            choices=("lmdb", "cassandra"),
            required=True,
            help=text,
        )
    add_json(copy)
    add_settings(copy, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

    schema = command(
        commands,
        "schema",
        "what Cassandra needs to keep the state, as CQL",
        description="Prints the keyspace and the table. The service makes the table itself where\n"
        "it may, the keyspace never: how often it is replicated is yours to say.",
    )
    add_option(
        schema, "replication-factor", positive, "3", "N", "on how many nodes each row is kept"
    )
    add_settings(schema, ("cassandra_keyspace", "cassandra_datacenter", *EVERYWHERE))

    check = command(
        commands,
        "check-config",
        "the settings that count, where each comes from, and whether they can be used",
        description="Prints every setting and its origin; secrets are masked. If the server can\n"
        "be reached, looks at its version and streams as a start would; changes nothing.",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    add_settings(check, EVERYTHING)

    add_connect_commands(commands)
    return whole


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Of a command line that begins with a command, or an option that stands for one. Ends the
    process for a mistake, and for --help."""
    whole = parser()
    if given[0] not in WITH_OPTIONAL_ARGUMENT:
        return whole.parse_args(given)
    [commands] = (one for one in whole._actions if isinstance(one, argparse._SubParsersAction))
    inside: argparse.ArgumentParser = commands.choices[given[0]]
    return inside.parse_intermixed_args(given[1:], argparse.Namespace(command=given[0]))


def settings_in(parsed: argparse.Namespace) -> dict[str, str]:
    """The texts of the settings that the command line has, by name."""
    found = {name: getattr(parsed, name, None) for name in EVERYTHING}
    for name in ("server", "cassandra"):
        if (several := found[name]) is not None:  # repeated; with commas, as the variable has it
            found[name] = ",".join(several)
    return {name: text for name, text in found.items() if text is not None}


def _sequences(text: str) -> list[int]:
    return [positive(part.strip()) for part in text.split(",")]
