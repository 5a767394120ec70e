"""What ``check-config`` can tell of a server that it reaches: all that would end a start."""

from __future__ import annotations

from dataclasses import dataclass, field

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    ConnectFailed,
    ConnectionLost,
    JetStreamError,
    LoginRefused,
    NatsError,
    NoAnswer,
)
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.permanent_errors import is_permanent
from alarmdigest.nats.url import LOCAL_SERVER
from alarmdigest.pipeline.group_checks import (
    check_no_group,
    check_other_groups,
    check_settings_of_group,
    content_of,
)
from alarmdigest.pipeline.server_checks import (
    cannot_be_made,
    content_settings,
    look_at_streams,
    split_bytes,
    version_problem,
)
from alarmdigest.settings import Settings, SettingsError

# A look shall not make whoever only wants to see the settings wait.
PATIENCE_S = 2.0


@dataclass(slots=True)
class ServerReport:
    """``server`` is the one that was looked at; empty, with the reason, where none was reached."""

    server: str = ""
    reason: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def not_looked_at(self, reason: str) -> None:
        """What it says may be otherwise in a moment: no fault of the configuration."""
        self.server, self.reason = "", reason


def check_server(settings: Settings) -> ServerReport:
    """Connect to the first server that can be reached, and change nothing there."""
    report = ServerReport()
    for url in settings.server or (LOCAL_SERVER,):
        connection = Connection(
            url, name="alarmdigest-check-config", login=settings.login, timeout=PATIENCE_S
        )
        try:
            connection.connect()
        except ConnectFailed as error:
            if isinstance(error, LoginRefused):
                report.problems.append(str(error))
                break
            report.reason = report.reason or str(error)
            continue
        try:
            report.server, report.reason = connection.url, ""
            _look(connection, settings, report)
        except SettingsError as error:
            report.problems += map(str, error.args)
        except JetStreamError as error:
            if is_permanent(error):
                report.problems.append(str(error))
            else:
                report.not_looked_at(str(error))
        except (ConnectionLost, NoAnswer) as error:
            report.not_looked_at(str(error))
        except NatsError as error:
            report.problems.append(str(error))
        finally:
            connection.close()
        break
    return report


def _look(connection: Connection, settings: Settings, report: ServerReport) -> None:
    """Raises SettingsError and NatsError for what stands in the way of looking further."""
    if problem := version_problem(connection, "core", asked_for=settings.mode):
        report.problems.append(problem)
        return
    digests = None
    if settings.mode != "core":
        jetstream = JetStream(connection, domain=settings.js_domain, timeout_s=PATIENCE_S)
        if not jetstream.available():
            said = f"{connection.url} (or our account there) has no JetStream"
            if settings.mode == "stream":
                report.problems.append(
                    f"{said}, which --mode stream needs: turn it on there (jetstream {{}} in the "
                    "server's configuration), or say --mode core"
                )
            else:
                report.warnings.append(f"{said}: it would be core mode")
        elif problem := version_problem(connection, "stream", asked_for=settings.mode):
            report.problems.append(problem)
        else:
            found = look_at_streams(jetstream, settings)
            report.problems += found.problems
            report.problems += cannot_be_made(jetstream, connection, found.missing)
            report.warnings += found.warnings
            digests = found.infos.get("digests")
    split = split_bytes(settings, connection, digests)
    if digests is None:
        return
    if not settings.group:
        check_no_group(jetstream, settings)
        return
    check_other_groups(jetstream, settings)
    content = content_of(settings, content_settings(settings, split))
    check_settings_of_group(jetstream, settings, content)
