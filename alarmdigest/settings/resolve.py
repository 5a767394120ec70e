"""Which source decides. Options win over our variables, these over those of the ``nats`` tool,
these over the settings file, this over a context of the ``nats`` tool, and that over the defaults.

``resolve`` reads the sources into layers (``sources.py``), ``merge_by_precedence`` makes one of
them, in which each text still has its origin, and ``_usable`` reads the texts to values
(``readers.py``) and compares them with each other (``contradictions.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from alarmdigest.nats.auth import collecting_problems, exposure
from alarmdigest.settings.contradictions import contradictions
from alarmdigest.settings.options import (
    LOGIN_NAMES,
    SECRETS,
    WAYS_TO_LOG_IN,
    Settings,
    SettingsError,
    variable,
)
from alarmdigest.settings.readers import path
from alarmdigest.settings.sources import (
    Given,
    Layer,
    Level,
    context_file,
    read_context,
    read_file,
    read_nats_variables,
    read_options,
    read_variables,
    unknown_variables,
)

READERS = {item.name: item.metadata["read"] for item in fields(Settings)}
# A password or a token may be given, or the file that holds it.
SECRET_OR_FILE = (
    ("password", "password_file"),
    ("token", "token_file"),
    ("cassandra_password", "cassandra_password_file"),
)


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """The settings that count. ``given`` has an entry for each that is not left to its default.

    Where there are ``problems``, one line for each, the settings concerned are as by default.
    """

    settings: Settings
    given: Mapping[str, Given]
    warnings: tuple[str, ...]
    problems: tuple[str, ...] = ()


def read_settings(texts: Mapping[str, str], environment: Mapping[str, str]) -> ResolvedSettings:
    """Read all sources. Raises SettingsError, with every problem that there is.

    ``texts`` are the options: field name -> text, and ``config`` and ``context``.
    """
    found = resolve(texts, environment)
    if found.problems:
        raise SettingsError(*found.problems)
    return found


def resolve(texts: Mapping[str, str], environment: Mapping[str, str]) -> ResolvedSettings:
    """As read_settings, for those who want to see also what is usable beside the problems."""
    problems: list[str] = []
    layers = [read_options(texts), read_variables(environment), read_nats_variables(environment)]
    files: dict[Path, Layer] = {}
    if (named := _locator("config", layers)) is not None:
        try:
            if (file := path(named.text)) is not None:
                files[file] = read_file(file, problems)
        except ValueError as error:
            problems.append(f"{named.origin}: {error}")
    if (named := _locator("context", [*layers, *files.values()])) is not None:
        if (file := context_file(named.text, environment)) is None:
            problems.append(f"{named.text!r} is no name of a context")
        else:
            files[file] = read_context(file, problems)
    given = merge_by_precedence([*layers, *files.values()], problems)
    settings = _usable(given, problems)
    warnings = [*unknown_variables(environment), *_exposed(files, given, problems)]
    return ResolvedSettings(settings, given, tuple(warnings), tuple(problems))


def _locator(name: str, layers: Iterable[Layer]) -> Given | None:
    """Take a setting that says where else to look out of all layers; the highest not empty."""
    found = [layer.pop(name) for layer in layers if name in layer]
    return next((one for one in found if one.text), None)


def _usable(given: Layer, problems: list[str]) -> Settings:
    """The settings as given, but for those that are wrong by themselves or beside others."""
    values, wrong = {}, set()
    for name, one in given.items():
        try:
            values[name] = READERS[name](one.text)
        except ValueError as error:
            wrong.add(name)
            suffix = f": {name}" if one.level == Level.FILE else ""
            problems.append(f"{one.origin}{suffix}: {error}")
    for names, text in contradictions(Settings(**values)):
        # What contradicts a value that is wrong anyway says nothing about the right one.
        if wrong.isdisjoint(names):
            places = [given[name].origin for name in names if name in given]
            unsaid = [place for place in places if not place.startswith("--")]
            problems.append(f"{text} ({', '.join(unsaid)})" if unsaid else text)
            for name in names:
                values.pop(name, None)
    return Settings(**values)


def merge_by_precedence(layers: Iterable[Layer], problems: list[str]) -> Layer:
    """Of each setting what the highest source says, and of the ways to log in the highest one.

    ``layers`` come from the highest to the lowest.
    """
    given: Layer = {}
    for layer in layers:
        for name, one in layer.items():
            given.setdefault(name, one)
    # One that is empty has hidden those below it, which is all that it is good for.
    for name in LOGIN_NAMES:
        if name in given and not given[name].text:
            del given[name]
    for alternatives in SECRET_OR_FILE:
        _keep_one(given, [(name,) for name in alternatives], problems)
    _take_user_for_token(given)
    _keep_one(given, WAYS_TO_LOG_IN, problems)
    if given.keys() & {"password", "password_file"} and "user" not in given:
        problems.append("there is a password, but no user: --user is missing")
    if "user" in given and not given.keys() & {"password", "password_file"}:
        problems.append(
            f"{given['user'].origin}: there is a user, but no password: "
            f"--password-file or {variable('password')} is missing"
        )
    return given


def _take_user_for_token(given: Layer) -> None:
    """For the ``nats`` tool a user without a password is a token."""
    user = given.get("user")
    if (
        user is not None
        and user.level in (Level.CONTEXT, Level.NATS_VARIABLE)
        and not given.keys() & {"password", "password_file", "token", "token_file"}
    ):
        given["token"] = given.pop("user")


def _keep_one(given: Layer, ways: Iterable[tuple[str, ...]], problems: list[str]) -> None:
    """Take out all ways but the one that a higher source names; of a tie the first one stays."""
    there = {
        way: max(given[name].level for name in way if name in given)
        for way in ways
        if any(name in given for name in way)
    }
    best = [way for way, level in there.items() if level == max(there.values())]
    if len(best) > 1:
        named = [next(given[name].origin for name in way if name in given) for way in best]
        problems.append(f"{' and '.join(named)} exclude each other: leave one of them")
    for way in there:
        if way not in best[:1]:
            for name in way:
                given.pop(name, None)


def _exposed(files: Mapping[Path, Layer], given: Layer, problems: list[str]) -> list[str]:
    """Warnings about files that hold secrets which others can read."""
    warnings: list[str] = []
    for file, layer in files.items():
        holds_login = "@" in layer["server"].text if "server" in layer else False
        if holds_login or layer.keys() & SECRETS or _holds_user_for_token(layer, given):
            with collecting_problems(problems):
                warnings += exposure(file)
    return warnings


def _holds_user_for_token(layer: Layer, given: Layer) -> bool:
    """Whether its user is a token (see above), be it in use or not."""
    user = layer.get("user")
    # One that is still a user in the end has its password from elsewhere.
    return user is not None and user.level == Level.CONTEXT and user != given.get("user")
