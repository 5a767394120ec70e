"""Writes the tables of ``docs/configuration.md``, which list every setting.

``python -m alarmdigest.settings.reference docs/configuration.md`` does it; all else stays.
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

from alarmdigest.settings.options import SECRETS, Settings, default_of, flag_of, variable
from alarmdigest.settings.sources import CONTEXT_KEYS, NATS_VARIABLES


def with_tables(page: str) -> str:
    """The page with the rows of both tables anew."""
    page = _with_rows(page, "| setting | variable | key of a context |", _nats_rows())
    return _with_rows(page, "| option | variable | default | |", _rows())


def _with_rows(page: str, head: str, rows: list[str]) -> str:
    table = re.compile(rf"({re.escape(head)}\n\|[-|]+\n)(?:\|.*\n)*")
    return table.sub(lambda found: found[1] + "".join(rows), page)


def _nats_rows() -> list[str]:
    variables = {name: f"`{variable}`" for variable, name in NATS_VARIABLES.items()}
    keys = {name: f"`{key}`" for key, name in CONTEXT_KEYS.items()}
    return [f"| `{name}` | {variables.get(name, '')} | {key} |\n" for name, key in keys.items()]


def _rows() -> list[str]:
    rows = []
    for item in fields(Settings):
        meta = item.metadata.get("meta", "")
        written = f"`{f'{flag_of(item.name)} {meta}'.rstrip()}`"
        if item.name in SECRETS:
            written = f"(key `{item.name}`)"
        default = default_of(item)
        cells = written, f"`{variable(item.name)}`", default and f"`{default}`"
        rows.append(f"| {' | '.join(cells)} | {item.metadata['help']} |\n")
    return rows


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_tables(file.read_text("utf-8")), "utf-8")
