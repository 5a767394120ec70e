"""The headers that say why a message was rejected; docs/wire.md lists them."""

from __future__ import annotations

MAX_DETAIL_CHARS = 200
_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"??")


def rejection_headers(reason: str, detail: str, subject: bytes) -> bytes:
    """Those of an AlarmRejected message, as ``Key: value`` lines.

    Neither value can hold a CR or LF: the detail is escaped to printable ASCII, and in the subject
    they are replaced, though the protocol knows no such subject.
    """
    detail = detail.encode("unicode_escape").decode("ascii")[:MAX_DETAIL_CHARS]
    return (
        f"Alarmdigest-Reason: {reason}\r\nAlarmdigest-Detail: {detail}\r\n".encode()
        + b"Alarmdigest-Subject: "
        + subject.translate(_NO_LINE_ENDS)
        + b"\r\n"
    )
