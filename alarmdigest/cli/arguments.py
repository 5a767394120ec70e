"""What can be written on the command line: the commands, their options, and what --help says."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from alarmdigest import __version__
from alarmdigest.cli.option_groups import (
    EVERYTHING,
    EVERYWHERE,
    GROUPS,
    OF_A_GROUP,
    OF_SNAPSHOTS,
    OF_THE_STORE,
    SHARED,
    TO_CONNECT,
    TO_TRY,
)
from alarmdigest.settings import FLAGS, SECRETS, Settings, duration, positive
from alarmdigest.settings.options import LOCATORS, flag_of, variable

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
    *("show", "rejected", "backup", "copy-store", "schema", "check-config"),
)

ITS_SERVER = (
    "the service's server, nats://host:port or tls://host:port; repeat it for the others of a "
    "cluster (default: NATS_URL, else 127.0.0.1:4222)"
)
ITS_DATA_DIR = "the service's data directory"


def parser() -> argparse.ArgumentParser:
    """That of all commands. ``command`` says which it was."""
    whole = argparse.ArgumentParser(
        prog="alarmdigest",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_Help,
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

    run = _command(
        commands,
        "run",
        "the service (what you get when you name no command)",
        description=DESCRIPTION,
    )
    _add_settings(run, EVERYTHING)

    verify = _command(
        commands,
        "verify",
        "a smoke test against a running service",
        description="Sends alarms and requests for a user nobody else has, and checks the\n"
        "digests.",
    )
    _add(verify, "timeout", duration, "10s", "TIME", "how long to wait for each digest")
    _add_settings(verify, TO_TRY, {"server": ITS_SERVER})

    emulate = _command(
        commands,
        "emulate",
        "traffic for a running service, and a check of what it answers",
        description="Publishes shots of bursts: each item one alarm and one digest request for a\n"
        "fresh user, on the numbered subject and on the plain one; then accounts for\n"
        "every digest.",
    )
    _add(emulate, "shots", positive, "200", "N", "how many shots")
    _add(emulate, "bursts", positive, "60", "N", "how many users in a shot")
    _add(emulate, "wait", duration, "15ms", "TIME", "pause between two shots")
    _add_settings(emulate, TO_TRY, {"server": ITS_SERVER})

    status = _command(
        commands,
        "status",
        "how a running service is, as its page shows it",
        description="Asks the service at --http and shows what its page shows.",
    )
    _add_json(status)
    _add_settings(
        status, ("http", *EVERYWHERE), {"http": "where the service serves HTTP, as its log says"}
    )

    members = _command(
        commands,
        "members",
        "the replicas of a group: who leads, and how far each is",
        description="Reads what the replicas of a group last told of themselves.",
    )
    _add_json(members)
    which = {"group": "the group (default: the only one that is there)"}
    _add_settings(members, OF_A_GROUP, which)

    down = _command(
        commands,
        "step-down",
        "have another replica of a group elected",
        description="Asks the leader to have another replica elected, and waits until one is.",
    )
    down.add_argument("--to", default="", metavar="NAME", help="this one (default: the readiest)")
    _add(down, "timeout", duration, "10s", "TIME", "how long to wait for an answer")
    _add_settings(down, OF_A_GROUP, which)

    snapshot = _command(
        commands,
        "snapshot",
        "a copy of the state in JetStream, made now; or a list of those that are there",
        description="Writes the last checkpoint in --data-dir to JetStream's object store, also\n"
        "while the service runs. A start with an empty data directory can go on from it.",
    )
    snapshot.add_argument("--list", action="store_true", help="make none; show those of the group")
    _add_json(snapshot)
    _add_settings(
        snapshot,
        OF_SNAPSHOTS,
        {"data_dir": ITS_DATA_DIR, "group": "the group that the state is one of (default: none)"},
    )

    show = _command(
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
    _add_json(show)
    _add_settings(show, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

    rejected = _command(
        commands,
        "rejected",
        "the messages that were rejected last, and why",
        description="Shows the end of the stream of rejected messages: number, time, reason,\n"
        "size, subject and detail. Without JetStream, or with --mode core, those that\n"
        "come from now on.",
    )
    _add(rejected, "last", positive, "20", "N", "how many to show")
    rejected.add_argument("--follow", action="store_true", help="and then those that come")
    rejected.add_argument("--body", action="store_true", help="show the messages themselves, too")
    _add_json(rejected)
    rejected.add_argument(
        "--refeed",
        type=_shown(_sequences),
        metavar="SEQ[,SEQ]",
        help="show nothing; publish the messages of these numbers once more where they came in",
    )
    _add_settings(
        rejected,
        (
            *("mode", "rejected_stream", "js_domain", *TO_CONNECT),
            *("event_subject", "request_subject", "rejected_subject"),
        ),
        {
            "server": ITS_SERVER,
            "mode": "core = look for no stream and show what comes from now on; stream = end if "
            "there is none; auto = from the stream where the server has JetStream",
            "event_subject": "messages are fed again here and below it",
            "request_subject": "and here",
            "rejected_subject": "where rejected messages are listened to without a stream",
        },
    )

    backup = _command(
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
    _add_json(backup)
    _add_settings(backup, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

    copy = _command(
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
    _add_json(copy)
    _add_settings(copy, OF_THE_STORE, {"data_dir": ITS_DATA_DIR})

    schema = _command(
        commands,
        "schema",
        "what Cassandra needs to keep the state, as CQL",
        description="Prints the keyspace and the table. The service makes the table itself where\n"
        "it may, the keyspace never: how often it is replicated is yours to say.",
    )
    _add(schema, "replication-factor", positive, "3", "N", "on how many nodes each row is kept")
    _add_settings(schema, ("cassandra_keyspace", "cassandra_datacenter", *EVERYWHERE))

    check = _command(
        commands,
        "check-config",
        "the settings that count, where each comes from, and whether they can be used",
        description="Prints every setting and its origin; secrets are masked. If the server can\n"
        "be reached, looks at its version and streams as a start would; changes nothing.",
    )
    check.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    _add_settings(check, EVERYTHING)
    return whole


def _command(
    to: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    description: str,
    takes: str = "",
) -> argparse.ArgumentParser:
    """``takes`` is what stands behind the command before its options."""
    return to.add_parser(
        name,
        help=text,
        formatter_class=_Help,
        allow_abbrev=False,
        usage=f"%(prog)s {takes} [options]" if takes else "%(prog)s [options]",
        description=description,
    )


def _add_json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="for programs: JSON, one value a line")


def _sequences(text: str) -> list[int]:
    return [positive(part.strip()) for part in text.split(",")]


def _add_settings(
    to: argparse.ArgumentParser, shown: Sequence[str], texts: Mapping[str, str] | None = None
) -> None:
    """Options for settings, in groups; what is written is read later, with all other sources.

    ``texts`` replace the help of settings that mean something else to this command.
    """
    for name in sorted(SECRETS):
        # Named all the same: whoever tries them is told what to do, and the secret is not repeated,
        # as it would be among the unknown ones.
        to.add_argument(flag_of(name), type=_no_secret(name), help=argparse.SUPPRESS)
    metas = {name: meta for name, (meta, _) in LOCATORS.items()}
    helps = {name: text for name, (_, text) in LOCATORS.items()}
    for item in fields(Settings):
        default = item.metadata.get("default")
        text = (texts or {}).get(item.name, item.metadata["help"])
        helps[item.name] = f"{text} (default: {default})" if default else text
        metas[item.name] = item.metadata.get("meta", "")
    for title, names in GROUPS.items():
        group = to.add_argument_group(title)
        for name in names:
            if name not in shown and name not in SHARED:
                continue
            text = helps[name] if name in shown else argparse.SUPPRESS
            option: dict[str, Any] = {"help": text}
            if name in FLAGS:
                option |= {"action": "store_const", "const": "true"}
            else:
                option["metavar"] = metas[name]
            if name == "server":
                option |= {"action": "append", "type": _without_login}
            elif name == "cassandra":
                option["action"] = "append"
            group.add_argument(flag_of(name), **option)


def settings_in(parsed: argparse.Namespace) -> dict[str, str]:
    """The texts of the settings that the command line has, by name."""
    found = {name: getattr(parsed, name, None) for name in EVERYTHING}
    for name in ("server", "cassandra"):
        if (several := found[name]) is not None:  # repeated; with commas, as the variable has it
            found[name] = ",".join(several)
    return {name: text for name, text in found.items() if text is not None}


def _add(
    to: argparse.ArgumentParser,
    name: str,
    read: Callable[[str], object],
    default: str,
    meta: str,
    text: str,
) -> None:
    help_text = f"{text} (default: {default})"
    to.add_argument(f"--{name}", type=_shown(read), default=default, metavar=meta, help=help_text)


def _shown(read: Callable[[str], object]) -> Callable[[str], object]:
    """Argparse shows what an ArgumentTypeError says; of a ValueError it does not."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _without_login(url: str) -> str:
    if "@" in url:
        raise argparse.ArgumentTypeError(
            "a user or password here could be read in the list of processes; put the URL into "
            "NATS_URL instead"
        )
    return url


def _no_secret(name: str) -> Callable[[str], str]:
    """The reader of an option that a secret would be the value of: it refuses all."""

    def refuse(_secret: str) -> str:
        raise argparse.ArgumentTypeError(
            "a secret here could be read in the list of processes; "
            f"use {flag_of(name)}-file or {variable(name)} instead"
        )

    return refuse


class _Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are; no line ends within a name that has a hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
