"""Texts of strangers made fit to be shown: nothing that breaks a line, hides, or turns its
neighbours around."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import urlsplit

MAX_LINK_CHARS = 1000
WEB = ("https://", "http://")
ELLIPSIS = "\u2026"
# So many marks on one letter are enough for every language; more of them cover the lines around.
MAX_MARKS = 4
# They join letters in some languages, and the parts of an emoji.
_JOINERS = "\u200c\u200d"
_MENTION = re.compile(r"@(?!\s)")
_TWO_BARS = re.compile(r"\|(?=\|)")
_MARKUP = str.maketrans(
    {"<": "\u2039", ">": "\u203a", "`": "'", "*": "\u2217", "~": "-", "\\": "/"}
)
_UNDERLINE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# A name, and an address without what a chat could take for markup.
_LINK_LINE = re.compile(r" *[\w .-]{1,80}: https?://[^\s<>|`*]+")
# Allowed in an address by some programs, and the end of it for others.
_QUOTED = {ord(char): f"%{ord(char):02X}" for char in "\"'<>\\^`{|}"}


def one_line(text: str, chars: int) -> str:
    """At most so many characters, cut at the end; runs of blanks become one space."""
    # Bounded before the work is: three are more than what cleaning can take from usual texts.
    return cut(" ".join(_visible(text[: 3 * chars]).split()), chars)


def block(text: str, chars: int) -> str:
    """As ``one_line``, but its lines stay, without empty ones around them."""
    lines = text[: 3 * chars].splitlines()
    return cut("\n".join(" ".join(_visible(line).split()) for line in lines).strip("\n"), chars)


def cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1].rstrip() + ELLIPSIS


def for_chat(text: str) -> str:
    """Nothing in it calls a person, and nothing becomes bold, a quote, or a link with another text,
    whichever of the usual kinds of markup a chat reads. Made of text that is clean already."""
    text = _MENTION.sub("@ ", text.translate(_MARKUP))
    text = _TWO_BARS.sub("| ", text.replace("](", "] ("))
    return _UNDERLINE.sub("-", text)


def chat_lines(text: str) -> str:
    """A text of several lines, each as ``for_chat`` makes it but for links, which go on working."""
    return "\n".join(
        line if line.lstrip().startswith(WEB) or ": http" in line else for_chat(line)
        for line in text.split("\n")
    )


def web_link(url: str) -> str:
    """The same, fit for text and for an attribute; nothing if it is no address of a web page, or
    one with a login, which looks like another host's."""
    if len(url) > MAX_LINK_CHARS or not url.isprintable() or " " in url:
        return ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if not url.startswith(WEB) or not parts.hostname or "@" in parts.netloc:
        return ""
    return url.translate(_QUOTED)


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    kept, marks = [], 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif (category != "Cf" or char in _JOINERS) and marks <= MAX_MARKS:
            kept.append(char)
    return "".join(kept)
