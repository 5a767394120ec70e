"""The command line: which command, with which settings."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from alarmdigest.cli.arguments import COMMANDS, parse, settings_in
from alarmdigest.nats.auth import collecting_problems
from alarmdigest.nats.errors import ConnectFailed, LoginError, NatsError, UrlError
from alarmdigest.process.blocked_signals import BLOCKED_SIGNALS
from alarmdigest.process.installation import core_is_older_than_its_sources
from alarmdigest.runtime import exit_codes, log_writer, logs, memory
from alarmdigest.runtime.resource_limits import exhausted_resource
from alarmdigest.runtime.text import printable
from alarmdigest.settings import ResolvedSettings, Settings, SettingsError, read_settings, resolve
from alarmdigest.store import StoreError

log = logging.getLogger(__name__)

WITH_DATA = ("run", "show", "backup", "copy-store", "snapshot")
CONNECTING = (
    *("run", "verify", "emulate", "rejected", "members", "step-down", "snapshot"),
    *("history", "forget", "clear", "users", "trace", "bridge", "schedule", "scheduler"),
    "deliver",
)


# Those that run until a signal ends them, and log what they do.
SERVICES = ("run", "bridge", "scheduler", "deliver")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        _complain(f"{given[0]!r} is no command; there are {', '.join(COMMANDS)}")
        return exit_codes.USAGE
    given = given if _names_command(given) else ["run", *given]
    if given[0] not in SERVICES:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
            return _run_command(given)
        except KeyboardInterrupt:
            _complain("interrupted")
            return exit_codes.INTERNAL_ERROR
    try:
        memory.use_few_arenas()
        log_writer.begin()
        return _run_command(given)
    except ImportError:  # the installation is at fault, see entry.py
        raise
    except Exception as error:
        if (why := exhausted_resource(error)) is None:
            log.critical("an internal error, we cannot go on", exc_info=error)
            if core_is_older_than_its_sources():
                _complain("the compiled core is older than its sources: `make build`")
        else:
            _complain(why)
        return exit_codes.INTERNAL_ERROR
    finally:
        log_writer.end()


def _run_command(given: list[str]) -> int:
    parsed = parse(given)
    texts = settings_in(parsed)
    try:
        found = resolve(texts, os.environ)
        if parsed.command == "check-config":
            from alarmdigest.cli.commands.check_config import check_config

            return check_config(found, as_json=parsed.json)
        settings = _checked(found, connects=parsed.command in CONNECTING)
        if parsed.command in WITH_DATA:
            _must_lie_somewhere(settings.data_dir)
        if parsed.command == "run":
            from alarmdigest.process.reload import Reloader
            from alarmdigest.process.runner import Runner

            reloader = Reloader(settings, lambda: read_settings(texts, os.environ))
            return Runner(settings, reloader).run()
        # The tools wait for a user at a terminal and have no use for the service's threads.
        code = _TOOLS[parsed.command](settings, parsed)
        sys.stdout.flush()
        return code
    except (SettingsError, UrlError, LoginError) as error:
        for problem in error.args:
            _complain(printable(str(problem)))
        return exit_codes.USAGE
    except KeyboardInterrupt:
        return exit_codes.INTERNAL_ERROR
    except BrokenPipeError:
        # `| head` has seen enough. What is still in the buffer must not fail at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.CLEAN
    except NatsError as error:
        # After a refusal in the middle of the work it is there.
        hint = "; is the service's NATS server there?" if isinstance(error, ConnectFailed) else ""
        _complain(f"{error}{hint}")
        return exit_codes.NATS_NOT_REACHABLE
    except StoreError as error:
        _complain(str(error))
        return exit_codes.STORE_UNUSABLE
    except (MemoryError, OSError, RuntimeError) as error:
        if (why := exhausted_resource(error)) is None:
            raise
        _complain(why)
        return exit_codes.INTERNAL_ERROR


def _must_lie_somewhere(data_dir: Path) -> None:
    """Raises SettingsError."""
    try:
        data_dir.absolute()
    except FileNotFoundError:
        raise SettingsError(
            f"--data-dir {data_dir}: the folder that this was started in is gone: name a whole path"
        ) from None


def _complain(text: str) -> None:
    with suppress(OSError):  # who closes stderr does not want to know
        print(f"alarmdigest: {text}", file=sys.stderr)


def _checked(found: ResolvedSettings, *, connects: bool) -> Settings:
    """The settings, once the warnings are logged. Raises SettingsError with all problems."""
    warnings, problems = list(found.warnings), list(found.problems)
    if connects:  # only then do the files of the login matter
        with collecting_problems(problems):
            warnings += found.settings.login.check()
    logs.configure(found.settings.log_level, found.settings.log_format)
    for warning in warnings:
        log.warning("%s", warning)
    if problems:
        raise SettingsError(*problems)
    return found.settings


# Each imports what it needs when it is called: a command shall not wait for another's libraries.


def _verify(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.verify import verify

    return verify(settings, timeout_s=parsed.timeout / 1e9)


def _emulate(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.emulate import emulate

    return emulate(settings, shots=parsed.shots, bursts=parsed.bursts, wait_s=parsed.wait / 1e9)


def _status(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.status import status

    return status(settings, as_json=parsed.json)


def _members(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.members import members

    return members(settings, as_json=parsed.json)


def _step_down(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.members import step_down

    return step_down(settings, to=parsed.to, timeout_s=parsed.timeout.seconds)


def _snapshot(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.snapshot import snapshot

    return snapshot(settings, only_list=parsed.list, as_json=parsed.json)


def _show(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.show import show

    source = parsed.source
    names_store = (parsed.data_dir, parsed.store, parsed.cassandra, parsed.cassandra_keyspace)
    if source == "either" and any(names_store) and not parsed.server:
        source = "store"  # who names one wants that
    return show(settings, parsed.whose, only_due=parsed.due, source=source, as_json=parsed.json)


def _users(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.users import users

    return users(
        settings,
        only_due=parsed.due,
        only_active=parsed.active,
        top=parsed.top,
        sort=parsed.sort,
        as_json=parsed.json,
    )


def _trace(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.trace import trace

    seconds = 0 if parsed.off else parsed.duration
    return trace(settings, parsed.whose, seconds=seconds, as_json=parsed.json)


def _history(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.history import history

    return history(settings, parsed.whose, parsed.alarm, since_ns=parsed.since, as_json=parsed.json)


def _forget(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.forget import forget

    return forget(settings, parsed.whose, as_json=parsed.json)


def _clear(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.clear import clear

    return clear(settings, parsed.whose, parsed.alarm, as_json=parsed.json)


def _backup(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.backup import backup

    return backup(settings, Path(parsed.target), as_json=parsed.json)


def _copy_store(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.copy_store import copy_store

    return copy_store(settings, parsed.from_kind, parsed.to_kind, as_json=parsed.json)


def _schema(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.schema import schema

    return schema(settings, replication_factor=parsed.replication_factor)


def _rejected(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.rejected import refeed, rejected

    if parsed.refeed is not None:
        return refeed(settings, parsed.refeed, as_json=parsed.json)
    return rejected(
        settings,
        last=parsed.last,
        follow=parsed.follow,
        with_body=parsed.body,
        as_json=parsed.json,
    )


def _bridge(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.bridge import bridge, explain
    from alarmdigest.cli.connected_buckets import RULES_VARIABLE

    rules = parsed.rules or os.environ.get(RULES_VARIABLE)
    file = Path(rules) if rules else None
    if parsed.explain is not None:
        return explain(file, Path(parsed.explain), sender=parsed.sender, as_json=parsed.json)
    return bridge(settings, rules_file=file, listen_on=parsed.listen)


def _schedule(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands import schedule

    action, as_json = parsed.action, parsed.json
    if action in ("import", "export"):
        _only_with(parsed, action)
        if action == "export":
            return schedule.export(settings)
        if parsed.whose is None:
            raise SettingsError("say which file: schedule import FILE")
        file = Path(parsed.whose)
        return schedule.import_file(settings, file, only_these=parsed.only_these, as_json=as_json)
    user = schedule.user_named(parsed.whose, default=parsed.default, action=action)
    _only_with(parsed, action)
    if action == "set":
        names = ("timezone", "within", "critical_within", "send_between")
        fields = {name: getattr(parsed, name) for name in names}
        fields |= {"cron": parsed.cron, "critical_anytime": parsed.critical_anytime}
        return schedule.set_schedule(settings, user, fields, as_json=as_json)
    if action == "pause":
        return schedule.pause(settings, user, parsed.until, as_json=as_json)
    if action == "resume":
        return schedule.resume(settings, user, as_json=as_json)
    if action == "remove":
        return schedule.remove(settings, user, as_json=as_json)
    return schedule.list_schedules(settings, user, as_json=as_json)


def _only_with(parsed: argparse.Namespace, action: str) -> None:
    """Options of other actions are mistakes. Raises SettingsError."""
    of_set = ("cron", "timezone", "within", "critical_within", "send_between", "critical_anytime")
    belongs = {**dict.fromkeys(of_set, "set"), "until": "pause", "only_these": "import"}
    wrong = [
        f"--{name.replace('_', '-')} belongs to schedule {its}, not to schedule {action}"
        for name, its in belongs.items()
        if getattr(parsed, name) and its != action
    ]
    if wrong:
        raise SettingsError(*wrong)


def _scheduler(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands.schedule import scheduler

    return scheduler(settings, listen_on=parsed.listen)


def _deliver(settings: Settings, parsed: argparse.Namespace) -> int:
    from alarmdigest.cli.commands import deliver

    routes = parsed.routes or os.environ.get(deliver.ROUTES_VARIABLE)
    file = Path(routes) if routes else None
    if parsed.test is not None:
        return deliver.trial(file, parsed.test, as_json=parsed.json)
    if parsed.dry_run:
        return deliver.dry_run(settings, file, as_json=parsed.json)
    if parsed.retry_dead:
        return deliver.retry_dead(settings, file, as_json=parsed.json)
    return deliver.deliver(settings, file, listen_on=parsed.listen)


_TOOLS = {
    "bridge": _bridge,
    "schedule": _schedule,
    "scheduler": _scheduler,
    "deliver": _deliver,
    "verify": _verify,
    "emulate": _emulate,
    "status": _status,
    "members": _members,
    "step-down": _step_down,
    "snapshot": _snapshot,
    "show": _show,
    "users": _users,
    "trace": _trace,
    "history": _history,
    "forget": _forget,
    "clear": _clear,
    "rejected": _rejected,
    "backup": _backup,
    "copy-store": _copy_store,
    "schema": _schema,
}


def _names_command(given: list[str]) -> bool:
    return bool(given) and given[0] in (*COMMANDS, "-h", "--help", "--version")
