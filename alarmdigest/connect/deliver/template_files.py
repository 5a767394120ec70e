"""Where templates come from: a folder, and for what is not there the package."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path

from jinja2 import BaseLoader, FunctionLoader, TemplateSyntaxError, meta
from jinja2.environment import Environment

from alarmdigest.settings import SettingsError

TEMPLATES = ("subject.txt", "message.txt", "message.html", "short.txt")
# Under this the built-in ones are there too where the folder has others of their name.
BUILT_IN = "built_in/"
MAX_BYTES = 256 * 1024
MAX_FILES = 100


class TemplateFiles:
    """Read once, so that a file that is half written later changes nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Raises SettingsError with a line for each file that cannot be read."""
        self._texts = {}
        for name in TEMPLATES:
            text = (files(__package__) / "templates" / name).read_text("utf-8")
            self._texts[name] = self._texts[BUILT_IN + name] = text
        self.folder = folder
        self.own = {} if folder is None else _read(folder)
        self._texts |= self.own

    @property
    def names(self) -> Iterable[str]:
        return self._texts.keys()

    def loader(self) -> BaseLoader:
        return FunctionLoader(self._load)

    def path_of(self, name: str) -> str:
        """As it is called in what people are told."""
        if name in self.own:
            return str(self.folder and self.folder / name)
        return f"the built-in {name.removeprefix(BUILT_IN)}"

    def _load(self, name: str) -> tuple[str, str, Callable[[], bool]] | None:
        text = self._texts.get(name)
        return None if text is None else (text, self.path_of(name), lambda: True)

    def unused(self, environment: Environment) -> list[str]:
        """A sentence for each file of the folder that none of the templates names: it may be one of
        them with a slip in its name."""
        named: set[str | None] = set()
        for text in self.own.values():
            try:
                named |= {*meta.find_referenced_templates(environment.parse(text))}
            except TemplateSyntaxError:  # said already, with its line
                return []
        if None in named:  # a name that is known only when it is rendered
            return []
        return [
            f"{self.path_of(name)}: no template includes it; {_like(name)}"
            for name in sorted(self.own.keys() - {*TEMPLATES} - named)
        ]


def _read(folder: Path) -> dict[str, str]:
    problems, found = [], {}
    try:
        listed = sorted(path for path in folder.iterdir() if path.suffix in (".txt", ".html"))
    except OSError as error:
        raise SettingsError(
            f"cannot read the folder of templates {folder}: {error.strerror}"
        ) from error
    if len(listed) > MAX_FILES:
        raise SettingsError(f"{folder} has {len(listed)} templates: at most {MAX_FILES}")
    for path in listed:
        try:
            with path.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ValueError(f"longer than {MAX_BYTES} bytes")
            found[path.name] = data.decode()
        except UnicodeDecodeError:
            problems.append(f"{path}: not text in UTF-8")
        except OSError as error:
            problems.append(f"cannot read {path}: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise SettingsError(*problems)
    return found


def _like(name: str) -> str:
    near = difflib.get_close_matches(name, TEMPLATES, 1)
    return f"do you mean {near[0]}?" if near else f"the templates are {', '.join(TEMPLATES)}"
