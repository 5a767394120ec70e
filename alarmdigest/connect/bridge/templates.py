"""Texts with names in braces, ``{team}-{instance}``: nothing but replacing, so any input may fill
them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"\{([^{}]*)\}")


class Template:
    """``{name}`` stands for a label, or for one of the names that the alert itself has."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a brace without its other one, or with nothing between them."""
        self.text = text
        self.names = tuple(_NAME.findall(text))
        rest = _NAME.sub("", text)
        if "{" in rest or "}" in rest or "" in self.names:
            raise ValueError(f"{text!r}: write names in braces, as in {{team}}")
        if not self.names:
            raise ValueError(f"{text!r} has no name in braces: it would be the same for all")

    def fill(self, *sources: Mapping[str, str]) -> str:
        """For each name the value of the first source that has one; nothing at all if one of the
        names has none."""
        values = {}
        for name in self.names:
            for source in sources:
                if value := source.get(name, ""):
                    values[name] = value
                    break
            else:
                return ""
        return _NAME.sub(lambda match: values[match[1]], self.text)
