"""The command line: which command, with which settings."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from alarmdigest import __version__, exit_codes, logs
from alarmdigest.nats.errors import LoginError, NatsError, UrlError
from alarmdigest.settings import (
    FLAGS,
    SECRETS,
    Effective,
    Settings,
    SettingsError,
    duration,
    positive,
    read_settings,
)
from alarmdigest.store import StoreError

DESCRIPTION = """\
Takes alarm changes from NATS, keeps the latest state of every alarm of every user, and answers a
digest request with one message: that user's active alarms that are new or changed since the last.
"""

EPILOG = """\
Every option is also an environment variable, --log-level is ALARMDIGEST_LOG_LEVEL, and a key of a
settings file. NATS_URL names servers, too; the variables and contexts of the nats tool are known.
Without a server, the one on 127.0.0.1:4222 is used if there is one, else an embedded one is
started there.

exit codes: 0 clean, 1 internal error or failed check, 2 usage or configuration, 3 NATS not
reachable in time, 4 store unusable, 5 drain timed out
"""

COMMANDS = ("run", "verify", "emulate", "status", "show", "rejected", "check-config")
# Options that every command has; the others belong to the service.
# (The tools take some only so that one set of options suits all commands.)
SHARED = ("server", "data_dir", "mode", "store", "http", "log_level", "log_format")
LOGIN = ("user", "password_file", "token_file", "creds", "nkey", "inbox_prefix")
TLS = ("tls_ca", "tls_cert", "tls_key", "tls_first")
SUBJECTS = ("event_subject", "request_subject", "digest_subject", "rejected_subject")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        print(
            f"alarmdigest: {given[0]!r} is no command; there are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return exit_codes.USAGE
    parsed = _parser().parse_args(given if _names_command(given) else ["run", *given])
    names = [*(item.name for item in fields(Settings)), "config", "context"]
    texts = {name: value for name in names if (value := getattr(parsed, name, None)) is not None}

    def read() -> Effective:
        return read_settings(texts, os.environ)

    try:
        if parsed.command == "check-config":
            from alarmdigest.tools.check_config import check_config

            return check_config(read(), as_json=parsed.json)
        effective = read()
        settings = effective.settings
        logs.configure(settings.log_level, settings.log_format)
        for warning in (*effective.warnings, *settings.login.check()):
            logging.getLogger(__name__).warning("%s", warning)
        if parsed.command == "run":
            from alarmdigest.reload import Reloader
            from alarmdigest.run import Runner

            return Runner(settings, Reloader(settings, read)).run()
        # The tools wait for a user at a terminal and have no use for the service's threads.
        return _TOOLS[parsed.command](settings, parsed)
    except (SettingsError, UrlError, LoginError) as error:
        print(f"alarmdigest: {error}", file=sys.stderr)
        return exit_codes.USAGE
    except KeyboardInterrupt:
        return exit_codes.INTERNAL_ERROR
    except BrokenPipeError:
        # `| head` has seen enough. What is still in the buffer must not fail at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.CLEAN
    except NatsError as error:
        print(f"alarmdigest: {error}; is the service's NATS server there?", file=sys.stderr)
        return exit_codes.NATS_NOT_REACHABLE
    except StoreError as error:
        print(f"alarmdigest: {error}", file=sys.stderr)
        return exit_codes.STORE_UNUSABLE


# Each imports what it needs when it is called: a command shall not wait for another's libraries.


def _verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.tools.verify import verify

    return verify(settings, timeout_s=parsed.timeout / 1e9)


def _emulate(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.tools.emulate import emulate

    return emulate(settings, shots=parsed.shots, bursts=parsed.bursts, wait_s=parsed.wait / 1e9)


def _status(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.tools.status import status

    return status(settings, as_json=parsed.json)


def _show(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.tools.show import show

    return show(settings, parsed.whose, only_due=parsed.due, as_json=parsed.json)


def _rejected(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.tools.rejected import refeed, rejected

    if parsed.refeed is not None:
        return refeed(settings, parsed.refeed)
    return rejected(
        settings,
        last=parsed.last,
        follow=parsed.follow,
        with_body=parsed.body,
        as_json=parsed.json,
    )


_TOOLS = {
    "verify": _verify,
    "emulate": _emulate,
    "status": _status,
    "show": _show,
    "rejected": _rejected,
}


def _names_command(given: list[str]) -> bool:
    return bool(given) and given[0] in (*COMMANDS, "-h", "--help", "--version")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alarmdigest",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [run | COMMAND] [options]    (COMMAND --help for its options)",
        add_help=True,
    )
    parser.add_argument("--version", action="version", version=f"alarmdigest {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog="alarmdigest", title="commands"
    )

    run = commands.add_parser(
        "run", help="the service (what you get when you name no command)", description=DESCRIPTION
    )
    _add_settings(run, [item.name for item in fields(Settings)])

    verify = commands.add_parser(
        "verify",
        help="a smoke test against a running service",
        description="Sends alarms and requests for a user nobody else has, and checks the digests.",
    )
    _add_settings(verify, [*SHARED, *LOGIN, *TLS, *SUBJECTS])
    _add(verify, "timeout", duration, "10s", "TIME", "how long to wait for each digest")

    emulate = commands.add_parser(
        "emulate",
        help="traffic for a running service, and a check of what it answers",
        description="Publishes shots of bursts: each item one alarm and one digest request for a "
        "fresh user, on the numbered subject and on the plain one; then accounts for every digest.",
    )
    _add_settings(emulate, [*SHARED, *LOGIN, *TLS, *SUBJECTS])
    _add(emulate, "shots", positive, "200", "N", "how many shots")
    _add(emulate, "bursts", positive, "60", "N", "how many users in a shot")
    _add(emulate, "wait", duration, "15ms", "TIME", "pause between two shots")

    status = commands.add_parser(
        "status",
        help="how a running service is, as its page shows it",
        description="Asks the service at --http and shows what its page shows.",
    )
    _add_settings(status, SHARED)
    _add_json(status)

    show = commands.add_parser(
        "show",
        help="one user's alarms, from the store on disk",
        description="Reads the last checkpoint in --data-dir, also while the service runs. "
        "A user whose id begins with - is named behind --.",
    )
    # Not "user": that is the setting of the login.
    show.add_argument("whose", metavar="USER", help="the UserID")
    _add_settings(show, SHARED)
    show.add_argument("--due", action="store_true", help="only what the next digest would hold")
    _add_json(show)

    rejected = commands.add_parser(
        "rejected",
        help="the messages that were refused last, and why",
        description="Shows the end of the stream of refused messages, or, in core mode, those that "
        "come from now on: number, time, reason, size, subject and detail.",
    )
    _add_settings(rejected, [*SHARED, *LOGIN, *TLS, *SUBJECTS, "rejected_stream", "js_domain"])
    _add(rejected, "last", positive, "20", "N", "how many to show")
    rejected.add_argument("--follow", action="store_true", help="and then those that come")
    rejected.add_argument("--body", action="store_true", help="show the messages themselves, too")
    _add_json(rejected)
    rejected.add_argument(
        "--refeed",
        type=_sequences,
        metavar="SEQ[,SEQ]",
        help="show nothing; publish the messages of these numbers once more where they came in",
    )

    check = commands.add_parser(
        "check-config",
        help="the settings that count, where each comes from, and whether they can be used",
        description="Prints every setting and its origin; secrets are masked. Connects to nobody.",
    )
    _add_settings(check, [item.name for item in fields(Settings)])
    check.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: JSON, one value a line")


def _sequences(text: str) -> list[int]:
    try:
        return [positive(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Options for settings; their texts are read later, together with those of other sources."""
    parser.add_argument(
        "--config", metavar="FILE", help="a settings file in TOML (default: ALARMDIGEST_CONFIG)"
    )
    parser.add_argument(
        "--context",
        metavar="NAME",
        help="a context of the nats tool with server and login (default: NATS_CONTEXT)",
    )
    for name in sorted(SECRETS):
        # Named all the same: else argparse takes it for short of --password-file, and the secret
        # for the name of a file, which a message would show.
        parser.add_argument(f"--{name}", action=_Refuse, help=argparse.SUPPRESS)
    for item in fields(Settings):
        if item.name not in names or item.name in SECRETS:
            continue
        flag = "--" + item.name.replace("_", "-")
        if item.name == "server":
            parser.add_argument(
                flag,
                action=_Join,
                metavar=item.metadata["meta"],
                help=item.metadata["help"],
            )
        elif item.name in FLAGS:
            parser.add_argument(
                flag, action="store_const", const="true", help=item.metadata["help"]
            )
        else:
            default = item.metadata["default"]
            suffix = f" (default: {default})" if default else ""
            parser.add_argument(
                flag, metavar=item.metadata["meta"], help=item.metadata["help"] + suffix
            )


def _add(
    parser: argparse.ArgumentParser, name: str, read: object, default: str, meta: str, text: str
) -> None:
    def convert(value: str) -> object:
        try:
            return read(value)  # type: ignore[operator]
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        f"--{name}",
        type=convert,
        default=default,
        metavar=meta,
        help=f"{text} (default: {default})",
    )


class _Join(argparse.Action):
    """Collects a repeated option into one text, joined by commas, as the variable has it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if "@" in str(values):
            parser.error(
                f"argument {option_string}: a user or password here could be read in the list of "
                "processes; put the URL into NATS_URL instead"
            )
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else str(values))


class _Refuse(argparse.Action):
    """An option that a secret would be the value of."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(
            f"argument {option_string}: a secret here could be read in the list of processes; "
            f"use {option_string}-file or ALARMDIGEST_{self.dest.upper()} instead"
        )
