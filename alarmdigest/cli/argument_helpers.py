"""How commands and their options are told to argparse, the same way for all of them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from alarmdigest.cli.option_groups import GROUPS, SHARED
from alarmdigest.settings import FLAGS, SECRETS, Settings
from alarmdigest.settings.options import LOCATORS, flag_of, variable

ITS_SERVER = (
    "the service's server, nats://host:port or tls://host:port; repeat it for the others of a "
    "cluster (default: NATS_URL, else 127.0.0.1:4222)"
)
ITS_DATA_DIR = "the service's data directory"


def command(
    to: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    *,
    description: str,
    takes: str = "",
) -> argparse.ArgumentParser:
    """``takes`` is what stands behind the command before its options."""
    return to.add_parser(
        name,
        help=text,
        formatter_class=Help,
        allow_abbrev=False,
        usage=f"%(prog)s {takes} [options]" if takes else "%(prog)s [options]",
        description=description,
    )


def add_json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="for programs: JSON, one value a line")


def add_settings(
    to: argparse.ArgumentParser, shown: Sequence[str], texts: Mapping[str, str] | None = None
) -> None:
    """Options for settings, in groups; what is written is read later, with all other sources.

    ``texts`` replace the help of settings that mean something else to this command.
    """
    for name in sorted(SECRETS):
        # Named all the same: whoever tries them is told what to do, and the secret is not repeated,
        # as it would be among the unknown ones.
        to.add_argument(flag_of(name), type=_no_secret(name), help=argparse.SUPPRESS)
    metas = {name: meta for name, (meta, _) in LOCATORS.items()}
    helps = {name: text for name, (_, text) in LOCATORS.items()}
    for item in fields(Settings):
        default = item.metadata.get("default")
        text = (texts or {}).get(item.name, item.metadata["help"])
        helps[item.name] = f"{text} (default: {default})" if default else text
        metas[item.name] = item.metadata.get("meta", "")
    for title, names in GROUPS.items():
        group = to.add_argument_group(title)
        for name in names:
            if name not in shown and name not in SHARED:
                continue
            text = helps[name] if name in shown else argparse.SUPPRESS
            option: dict[str, Any] = {"help": text}
            if name in FLAGS:
                option |= {"action": "store_const", "const": "true"}
            else:
                option["metavar"] = metas[name]
            if name == "server":
                option |= {"action": "append", "type": _without_login}
            elif name == "cassandra":
                option["action"] = "append"
            group.add_argument(flag_of(name), **option)


def add_option(
    to: argparse.ArgumentParser,
    name: str,
    read: Callable[[str], object],
    default: str,
    meta: str,
    text: str,
    *,
    dest: str | None = None,
) -> None:
    """An option of one command; ``dest`` is its attribute, where that is not its name."""
    to.add_argument(
        f"--{name}",
        type=with_message(read),
        default=default,
        metavar=meta,
        help=f"{text} (default: {default})",
        dest=dest or name.replace("-", "_"),
    )


def with_message(read: Callable[[str], object]) -> Callable[[str], object]:
    """Argparse shows what an ArgumentTypeError says; of a ValueError it does not."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _without_login(url: str) -> str:
    if "@" in url:
        raise argparse.ArgumentTypeError(
            "a user or password here could be read in the list of processes; put the URL into "
            "NATS_URL instead"
        )
    return url


def _no_secret(name: str) -> Callable[[str], str]:
    """The reader of an option that a secret would be the value of: it refuses all."""

    def refuse(_secret: str) -> str:
        raise argparse.ArgumentTypeError(
            "a secret here could be read in the list of processes; "
            f"use {flag_of(name)}-file or {variable(name)} instead"
        )

    return refuse


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are; no line ends within a name that has a hyphen."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
