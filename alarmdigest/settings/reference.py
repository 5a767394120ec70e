"""Writes the tables of ``docs/configuration.md``, which list every setting.

``python -m alarmdigest.settings.reference docs/configuration.md`` does it; all else stays.
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

from alarmdigest.settings.options import SECRETS, Settings, default_of, flag_of, variable
from alarmdigest.settings.sources import NATS_VARIABLES_AND_KEYS


def with_tables(page: str) -> str:
    """The page with the rows of both tables anew."""
    page = _with_rows(page, "| setting | variable | key of a context |", _nats_rows())
    return _with_rows(page, "| option | variable | default | |", _rows())


def _with_rows(page: str, head: str, rows: list[str]) -> str:
    table = re.compile(rf"({re.escape(head)}\n\|[-|]+\n)(?:\|.*\n)*")
    return table.sub(lambda found: found[1] + "".join(rows), page)


def _nats_rows() -> list[str]:
    return [
        f"| {_code(name)} | {_code(nats_variable)} | {_code(key)} |\n"
        for name, (nats_variable, key) in NATS_VARIABLES_AND_KEYS.items()
        if key
    ]


def _rows() -> list[str]:
    rows = []
    for item in fields(Settings):
        written = _code(f"{flag_of(item.name)} {item.metadata.get('meta', '')}".rstrip())
        if item.name in SECRETS:
            written = f"(key {_code(item.name)})"
        cells = written, _code(variable(item.name)), _code(default_of(item)), item.metadata["help"]
        rows.append(f"| {' | '.join(cells)} |\n")
    return rows


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_tables(file.read_text("utf-8")), "utf-8")
