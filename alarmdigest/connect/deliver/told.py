"""Through which time a user was told what was cleared, in the bucket ALARM_DELIVER."""

from __future__ import annotations

from collections import OrderedDict

import orjson

from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.detail_keys import user_key
from alarmdigest.connect.publishing import Outgoing
from alarmdigest.nats.jetstream import JetStream

MOST_KNOWN = 10_000


class Told:
    """Belongs to one thread. Times are those of the stream of alarms, in ns since 1970."""

    def __init__(self, bucket: BucketConfig) -> None:
        self._bucket = bucket
        self._known: OrderedDict[str, int | None] = OrderedDict()

    def through(self, js: JetStream, user_id: str) -> int | None:
        """None where we know of no message to this user. Raises what requests raise."""
        key = user_key(user_id)
        if key not in self._known:
            found = js.find_message(
                self._bucket.stream, {"last_by_subj": f"$KV.{self._bucket.name}.{_name(key)}"}
            )
            self._remember(key, None if found is None else _read(found.payload))
        self._known.move_to_end(key)
        return self._known[key]

    def note(self, user_id: str, through_ns: int) -> None:
        """A message that tells so much is on its way: the next one need not."""
        key = user_key(user_id)
        self._remember(key, max(through_ns, self._known.get(key) or 0))

    def entry(self, user_id: str, through_ns: int) -> Outgoing:
        """To be stored once a message has reached its user."""
        subject = self._bucket.subject(_name(user_key(user_id)))
        return Outgoing(self._bucket.stream, subject, orjson.dumps({"through": through_ns}))

    def forget_all(self) -> None:
        """Another process has been at work."""
        self._known.clear()

    def _remember(self, key: str, through_ns: int | None) -> None:
        self._known[key] = through_ns
        self._known.move_to_end(key)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)


def _name(key: str) -> str:
    return f"told.{key}"


def _read(body: bytes) -> int | None:
    try:
        through = orjson.loads(body)["through"]
    except (ValueError, KeyError, TypeError):
        return None
    return through if type(through) is int else None
