"""The leader's word: how much of what the input produces is stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: Ids of digests are shorter.
MOST_ID = 64


@dataclass(frozen=True, slots=True)
class Word:
    """Everything that belongs to input up to ``through`` is stored, or given up; and whatever
    belongs to later input lies after ``after`` in the digest stream.

    ``through`` is the arrival of an input message, in ns: arrivals rise from message to message,
    also where a stream was made anew and counts from 1. ``sequence`` is that message's sequence,
    for people. ``after`` is a sequence of the digest stream, and ``after_id`` the id of the message
    there, if it is known. 0 before the first message. Once true a word stays true, also after its
    speaker was deposed.

    ``digests`` and ``ids`` are how many digests the input up to ``through`` has produced, and the
    sum of their ids modulo 2**128: every replica must come to the same. ``token`` is its speaker's.
    """

    through: int = 0
    sequence: int = 0
    after: int = 0
    after_id: str = ""
    digests: int = 0
    ids: int = 0
    token: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ids": f"{self.ids:032x}"}

    @classmethod
    def from_json(cls, fields: object) -> Word:
        """Raises ValueError for what is no word; fields that it does not know are ignored."""
        if not isinstance(fields, dict):
            raise ValueError(f"a word is an object, not {type(fields).__name__}")
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        try:
            word = cls(**{**known, "ids": int(known.get("ids", "0"), 16)})
        except TypeError as error:
            raise ValueError(f"a word whose fields have other types: {error}") from error
        numbers = (word.through, word.sequence, word.after, word.digests, word.token)
        if not all(type(one) is int and 0 <= one < 2**63 for one in numbers):
            raise ValueError("a word counts with whole numbers of 63 bits")
        if not (
            isinstance(word.after_id, str)
            and len(word.after_id) <= MOST_ID
            and 0 <= word.ids < 2**128
        ):
            raise ValueError("an id is a short text, and a sum of ids has 128 bits")
        return word


NOTHING_SAID = Word()
