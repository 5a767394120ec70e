"""What a bridge keeps about a user: details, and when his alarms were cleared."""

from __future__ import annotations

from alarmdigest.cli.client import connect
from alarmdigest.connect.bridge.buckets import BucketConfig
from alarmdigest.connect.bridge.details import user_key
from alarmdigest.connect.bridge.rules import DetailRules, TimeRules
from alarmdigest.nats.errors import JetStreamError, JetStreamOff, NatsError
from alarmdigest.nats.jetstream import NO_STREAM, OFF, OFF_FOR_ACCOUNT, JetStream
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings


def purge_user(settings: Settings, user_id: str) -> int | None:
    """How many entries were removed; None where there is no bucket. Raises NatsError.

    Of the buckets that a bridge has unless its file names others.
    """
    key = user_key(user_id)
    purges = (
        (DetailRules().bucket, f"{key}.>"),
        (TimeRules().bucket, f"*.{key}.>"),
    )
    connection = connect(settings, "alarmdigest-forget")
    try:
        js = JetStream(connection, domain=settings.js_domain)
        removed: int | None = None
        for name, keys in purges:
            bucket = BucketConfig(name, 0, -1)
            try:
                body = {"filter": f"$KV.{name}.{keys}"}
                answer = js.request(f"STREAM.PURGE.{bucket.stream}", body)
            except JetStreamError as error:
                if error.err_code not in (NO_STREAM, OFF, OFF_FOR_ACCOUNT):
                    raise
            else:
                removed = (removed or 0) + int(answer.get("purged") or 0)
        return removed
    except JetStreamOff:
        return None
    finally:
        connection.close()


def remedy(error: NatsError, user_id: str) -> str:
    """What to do about entries that could not be removed."""
    key = user_key(user_id)
    return (
        f"if you have a bridge, its details about {printable(user_id)} are still there ({error}): "
        f"`nats stream purge KV_{DetailRules().bucket} "
        f"--subject '$KV.{DetailRules().bucket}.{key}.>'`"
    )
