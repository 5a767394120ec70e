"""Where values come from. Options win over our variables, these over those of the ``nats`` tool,
these over the settings file, this over a context of the ``nats`` tool, and that over the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alarmdigest.nats.errors import LoginError
from alarmdigest.nats.login import exposure
from alarmdigest.settings.files import read_file
from alarmdigest.settings.layers import Given, Layer, Level
from alarmdigest.settings.nats_cli import context_file, read_context, read_variables
from alarmdigest.settings.options import SECRETS, Settings, SettingsError, check, flag_of, variable

READERS = {item.name: item.metadata["read"] for item in fields(Settings)}
NAMES = tuple(READERS)
# Settings of the settings: where else to look. Both are options, too.
CONFIG_VARIABLE = "ALARMDIGEST_CONFIG"
CONTEXT_VARIABLE = "ALARMDIGEST_CONTEXT"
# A password or a token may be given, or the file that holds it.
SECRET_OR_FILE = (("password", "password_file"), ("token", "token_file"))
# Each line is one way to log in.
WAYS_IN = (("user", "password", "password_file"), ("token", "token_file"), ("creds",), ("nkey",))


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings that count. ``given`` has an entry for each that is not left to its default."""

    settings: Settings
    given: Mapping[str, Given]
    warnings: tuple[str, ...]


def from_texts(texts: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Settings from options (field name -> text) and environment. Raises SettingsError."""
    return read_settings(texts, environment).settings


def read_settings(texts: Mapping[str, str], environment: Mapping[str, str]) -> Effective:
    """Read all sources. Raises SettingsError.

    ``texts`` are the options: field name -> text, and ``config`` and ``context``.
    """
    flags = {name: Given(texts[name], Level.FLAG, flag_of(name)) for name in NAMES if name in texts}
    variables = {
        name: Given(environment[variable(name)], Level.VARIABLE, variable(name))
        for name in NAMES
        if variable(name) in environment
    }
    layers, files = [flags, variables, read_variables(environment)], []
    context = texts.get("context") or environment.get(CONTEXT_VARIABLE)
    context = context or environment.get("NATS_CONTEXT")
    if config := texts.get("config") or environment.get(CONFIG_VARIABLE):
        file = Path(config).expanduser()
        layer = read_file(file, (*NAMES, "context"))
        if named := layer.pop("context", None):
            context = context or named.text
        layers.append(layer)
        files.append((file, layer))
    if context:
        file = context_file(context, environment)
        layer = read_context(file)
        layers.append(layer)
        files.append((file, layer))
    given = winners(layers)
    settings = Settings(**{name: _value(name, one) for name, one in given.items()})
    check(settings)
    return Effective(settings, given, tuple(_exposed(files)))


def winners(layers: Iterable[Layer]) -> Layer:
    """Of each setting what the highest source says, and of the ways to log in the highest one."""
    given: Layer = {}
    for layer in layers:
        for name, one in layer.items():
            given.setdefault(name, one)
    # One that is empty has hidden those below it, which is all that it is good for.
    for name in {name for way in WAYS_IN for name in way}:
        if name in given and not given[name].text:
            del given[name]
    for alternatives in SECRET_OR_FILE:
        _keep_one(given, [(name,) for name in alternatives])
    _take_user_for_token(given)
    _keep_one(given, WAYS_IN)
    if given.keys() & {"password", "password_file"} and "user" not in given:
        raise SettingsError("there is a password, but no user: --user is missing")
    if "user" in given and not given.keys() & {"password", "password_file"}:
        raise SettingsError(
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


def _keep_one(given: Layer, ways: Iterable[tuple[str, ...]]) -> None:
    """Take out all ways but the one that a higher source names. Raises SettingsError on a tie."""
    there = {
        way: max(given[name].level for name in way if name in given)
        for way in ways
        if any(name in given for name in way)
    }
    best = [way for way, level in there.items() if level == max(there.values())]
    if len(best) > 1:
        named = [next(given[name].origin for name in way if name in given) for way in best]
        raise SettingsError(f"{' and '.join(named)} exclude each other: leave one of them")
    for way in there:
        if way not in best:
            for name in way:
                given.pop(name, None)


def _value(name: str, given: Given) -> Any:
    try:
        return READERS[name](given.text)
    except ValueError as error:
        suffix = f": {name}" if given.level == Level.FILE else ""
        raise SettingsError(f"{given.origin}{suffix}: {error}") from None


def _exposed(files: Iterable[tuple[Path, Layer]]) -> Iterable[str]:
    """Warnings about files that hold secrets which others can read."""
    for file, layer in files:
        holds_login = "@" in layer["server"].text if "server" in layer else False
        if holds_login or layer.keys() & SECRETS:
            try:
                yield from exposure(file)
            except LoginError as error:
                raise SettingsError(str(error)) from None
