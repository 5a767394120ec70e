"""Labels as Prometheus writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def matchers_of(labels: Mapping[str, str], without: Collection[str] = ()) -> str:
    """``a="b",c="d"``, in the order of their names."""
    pairs = sorted(labels.items())
    if without:
        pairs = [(name, value) for name, value in pairs if name not in without]
    text = ",".join([f'{name}="{value}"' for name, value in pairs])
    # Two quotes for each label, unless a value has some of its own.
    if "\\" in text or "\n" in text or text.count('"') != 2 * len(pairs):
        text = ",".join([f'{name}="{value.translate(_ESCAPED)}"' for name, value in pairs])
    return text
