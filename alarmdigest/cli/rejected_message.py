"""One rejected message, as AlarmRejected has it, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.cli.terminal import size_text, write_json, write_line
from alarmdigest.runtime.text import printable

# Stands for bytes of a header that are not UTF-8.
UNREADABLE = "\ufffd"


@dataclass(frozen=True, slots=True)
class Rejection:
    """``size`` in bytes. ``sequence`` is None where no stream numbers it, and ``body`` is None
    where it was not asked for. ``subject`` is where the message first came in."""

    sequence: int | None
    at_ns: int
    reason: str
    detail: str
    subject: str
    size: int
    cut: bool
    body: bytes | None


def read_rejection(
    headers: bytes, body: bytes, *, sequence: int | None, at_ns: int, with_body: bool
) -> Rejection:
    """Anybody who may can publish on the subject: what a header lacks is shown as ``?``."""
    fields = _fields(headers)
    size = fields.get("Nats-Msg-Size", "")  # where the stream was asked for headers only
    return Rejection(
        sequence=sequence,
        at_ns=at_ns,
        reason=fields.get("Alarmdigest-Reason", "?"),
        detail=fields.get("Alarmdigest-Detail", "?"),
        subject=fields.get("Alarmdigest-Subject", "?"),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 19 else len(body),
        cut=fields.get("Alarmdigest-Cut") == "true",
        body=body if with_body else None,
    )


def _fields(headers: bytes) -> dict[str, str]:
    lines = headers.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    # Blanks only: a control character at the end belongs to the value, and must be seen.
    return {name.strip(" "): value.strip(" ") for name, _colon, value in pairs}


def write_rejection(rejection: Rejection, *, as_json: bool) -> None:
    if as_json:
        write_json(_as_json(rejection))
        return
    number = "-" if rejection.sequence is None else str(rejection.sequence)
    size = size_text(rejection.size) + (" (cut)" if rejection.cut else "")
    write_line(
        f"{number}  {timestamps.to_text(rejection.at_ns)}  {printable(rejection.reason)}  {size}  "
        f"{printable(rejection.subject)}  {printable(rejection.detail)}"
    )
    if rejection.body is not None:
        write_line("    " + printable(rejection.body.decode("utf-8", "backslashreplace")))


def _as_json(rejection: Rejection) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "sequence": rejection.sequence,
        "at": timestamps.to_text(rejection.at_ns),
        "reason": rejection.reason,
        "detail": rejection.detail,
        "subject": rejection.subject,
        "bytes": rejection.size,
        "cut": rejection.cut,
    }
    if rejection.body is not None:
        shown["body"] = rejection.body.decode("utf-8", "backslashreplace")
    return shown
