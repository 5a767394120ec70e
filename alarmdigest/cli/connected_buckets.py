"""What is kept about a user beside the service: details of alarms, when they were cleared, his
schedule, and when he was told."""

from __future__ import annotations

import os
from pathlib import Path

from alarmdigest.cli.client import connect
from alarmdigest.connect.bridge.rules import Rules, read_rules
from alarmdigest.connect.detail_keys import user_key
from alarmdigest.connect.schedule.bucket import BUCKET, key_of
from alarmdigest.nats.errors import JetStreamError, JetStreamOff
from alarmdigest.nats.jetstream import NO_STREAM, OFF, OFF_FOR_ACCOUNT, JetStream
from alarmdigest.settings import Settings

RULES_VARIABLE = "ALARMDIGEST_BRIDGE_RULES"


def rules_of_environment() -> Rules:
    """Those of the file that the variable names. Raises SettingsError."""
    file = os.environ.get(RULES_VARIABLE)
    return read_rules(Path(file) if file else None)


def entries_of(rules: Rules, user_id: str) -> list[tuple[str, str]]:
    """Streams, and the subjects of a user in them."""
    key, details, times = user_key(user_id), rules.details.bucket, rules.time.bucket
    return [
        (f"KV_{details}", f"$KV.{details}.{key}.>"),
        (f"KV_{times}", f"$KV.{times}.*.{key}.>"),
        (f"KV_{BUCKET}", f"$KV.{BUCKET}.{key_of(user_id)}"),
        ("KV_ALARM_DELIVER", f"$KV.ALARM_DELIVER.told.{key}"),
    ]


def purge(settings: Settings, stream: str, subject: str) -> int | None:
    """How many entries were removed; None where there is no such bucket. Raises NatsError."""
    connection = connect(settings, "alarmdigest-forget")
    try:
        js = JetStream(connection, domain=settings.js_domain)
        return int(js.request(f"STREAM.PURGE.{stream}", {"filter": subject}).get("purged") or 0)
    except JetStreamOff:
        return None
    except JetStreamError as error:
        if error.err_code not in (NO_STREAM, OFF, OFF_FOR_ACCOUNT):
            raise
        return None
    finally:
        connection.close()
