"""The pictures of a message in docs/messages.md, of the built-in template in a browser.

``python -m support.mail_picture``, in tests/, draws them anew. Each knows of which HTML it is, so
that a test without a browser sees when one is out of date.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from alarmdigest.connect.deliver.rendering import Renderer
from alarmdigest.connect.deliver.sample_messages import FULL, SAMPLE_ZONE
from support.browser import Browser, browser
from support.paths import ROOT

PICTURES = {scheme: ROOT / f"docs/mail-{scheme}.png" for scheme in ("light", "dark")}
WIDTH = 640
KEYWORD = b"drawn of"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def html() -> str:
    rendered = Renderer(None, most_rows=50).render(
        FULL, zone=SAMPLE_ZONE, unsubscribe="https://alarms.example.com/unsubscribe"
    )
    return rendered.html


def mark_of(text: str) -> str:
    """Of what is drawn: blanks between tags count for nothing."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def mark_in(picture: Path) -> str:
    """Of what it was drawn, or nothing."""
    for kind, data in _chunks(picture.read_bytes()):
        if kind == b"tEXt" and data.startswith(KEYWORD + b"\0"):
            return data.partition(b"\0")[2].decode()
    return ""


def draw(shown: Browser, text: str, scheme: str, picture: Path, width: int = WIDTH) -> None:
    """The whole mail, as wide as that, in light or dark."""
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        shown.prefer(prefers_color_scheme=scheme)
        shown.be_wide(width, 400)
        shown.open(f"file://{file.name}")
        shown.be_wide(width, int(shown.script("document.documentElement.scrollHeight")))
        shown.screenshot(str(picture))
    chunks = list(_chunks(picture.read_bytes()))
    chunks.insert(1, (b"tEXt", KEYWORD + b"\0" + mark_of(text).encode()))
    picture.write_bytes(_SIGNATURE + b"".join(_packed(*one) for one in chunks))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _packed(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    with browser() as shown:
        for scheme, picture in PICTURES.items():
            draw(shown, html(), scheme, picture)
            print(f"{picture}: {picture.stat().st_size} bytes")
