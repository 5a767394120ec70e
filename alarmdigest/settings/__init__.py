"""All settings of the service: what there are, how they are read, and where they come from."""

from alarmdigest.settings.options import (
    DEFAULT_HTTP,
    FLAGS,
    HEADER_ROOM_BYTES,
    MIN_SPLIT_BYTES,
    SECRETS,
    Settings,
    SettingsError,
)
from alarmdigest.settings.readers import SPLIT_AUTO, Duration, HttpAddress, duration, positive, size
from alarmdigest.settings.resolve import ResolvedSettings, read_settings, resolve

__all__ = [
    "DEFAULT_HTTP",
    "FLAGS",
    "HEADER_ROOM_BYTES",
    "MIN_SPLIT_BYTES",
    "SECRETS",
    "SPLIT_AUTO",
    "Duration",
    "HttpAddress",
    "ResolvedSettings",
    "Settings",
    "SettingsError",
    "duration",
    "positive",
    "read_settings",
    "resolve",
    "size",
]
