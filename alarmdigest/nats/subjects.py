"""Subjects that contain or meet each other. They may have the wildcards ``*`` and ``>``."""

from __future__ import annotations


def covers(wide: str, narrow: str) -> bool:
    """Whether ``wide`` matches every subject that ``narrow`` matches."""
    ours, theirs = wide.split("."), narrow.split(".")
    for i, token in enumerate(ours):
        if i == len(theirs):
            return False
        if token == ">":
            return True
        if theirs[i] == ">" or (token != "*" and token != theirs[i]):
            return False
    return len(ours) == len(theirs)


def meet(one: str, other: str) -> bool:
    """Whether some subject is matched by both."""
    ours, theirs = one.split("."), other.split(".")
    for mine, its in zip(ours, theirs, strict=False):
        if ">" in (mine, its):
            return True
        if mine != its and "*" not in (mine, its):
            return False
    return len(ours) == len(theirs)


def covers_any_below(base: str, subject: str) -> bool:
    """Whether every subject that ``subject`` matches is ``base`` or lies below it."""
    return covers(base, subject) or covers(f"{base}.>", subject)


def meets_base(base: str, subject: str) -> bool:
    """Whether ``subject`` matches ``base`` or something below it."""
    return meet(base, subject) or meet(f"{base}.>", subject)


def written_by(destination: str) -> str:
    """The subjects that a mapping's destination may write: what it puts in counts as ``*``.

    nats-server writes ``{{wildcard(1)}}``, ``{{partition(10,1)}}`` or the older ``$1`` there.
    """
    tokens, depth, token = [], 0, ""
    for character in f"{destination}.":
        depth += (character == "{") - (character == "}")
        if character == "." and depth == 0:
            tokens.append("*" if token.startswith("$") or "{{" in token else token)
            token = ""
        else:
            token += character
    return ".".join(tokens)


def valid_subject(subject: str) -> bool:
    """Whether this is a subject that one can publish to: no wildcard, no empty token, no blank."""
    return bool(subject) and all(
        token and token not in ("*", ">") and token.isprintable() and " " not in token
        for token in subject.split(".")
    )
