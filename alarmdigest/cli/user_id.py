"""Ids as a command line has them: refused where no message could hold them."""

from __future__ import annotations

from alarmdigest.settings import SettingsError
from alarmdigest.wire.messages import MAX_ID_BYTES


def checked_id(text: str, what: str) -> str:
    """``what`` is USER or ALARM. Raises SettingsError."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise SettingsError(f"{what} is not text in UTF-8, which every id is: {text!a}") from None
    if not 1 <= length <= MAX_ID_BYTES:
        raise SettingsError(f"{what} must have 1 to {MAX_ID_BYTES} bytes, and has {length}")
    return text
