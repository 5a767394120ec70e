"""The page's files, read once and served from memory."""

from __future__ import annotations

from importlib.resources import files

_TYPES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

FILES: dict[str, tuple[bytes, str]] = {
    path: (files(__name__).joinpath(name).read_bytes(), content_type)
    for path, (name, content_type) in _TYPES.items()
}
"""Path -> content and its type."""
