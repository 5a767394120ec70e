"""What the documents say is so: commands, options, links, examples and versions."""

from __future__ import annotations

import fnmatch
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import orjson
import pytest
from test_model import replay

from alarmdigest import __version__, exit_codes
from alarmdigest.cli import main
from alarmdigest.messages import EVENT_FIELDS, REASONS, read_event, read_request
from alarmdigest.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    path.relative_to(ROOT) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

# Other people's commands: whether they work is not for a test of ours to say.
FOREIGN = {"cd", "curl", "git", "nats", "pip", "python3", "ssh"}


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language, also those that are indented in a list."""
    for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield match[2]


def commands(document: Path) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    lines = [line.strip() for block in blocks(text, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def cells(first: str, text: str = README) -> list[list[str]]:
    """The rows of all tables whose first cell matches; each row as its cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [row for row in rows if re.fullmatch(first, row[0])]


# -- commands ------------------------------------------------------------------------------------

SHOWN = [
    pytest.param(command, id=f"{document}: {command}")
    for document in DOCUMENTS
    for command in commands(document)
]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ending:
        main([command, "--help"])  # "--help" itself is one, too
    assert ending.value.code == 0
    return capsys.readouterr().out


def check_ours(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Our command is there, and so are the options that are given to it."""
    named = bool(arguments) and not arguments[0].startswith("-")
    command, rest = (arguments[0], arguments[1:]) if named else ("run", arguments)
    if rest == ["--version"]:
        return
    # Without a command, main() takes its arguments for those of `run`.
    assert re.search(rf"^    {command} ", help_of("--help", capsys), re.MULTILINE), command
    text = help_of(command, capsys)
    for word in rest:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            assert re.search(rf"{flag}(?![\w-])", text), f"{command} has no {flag}"


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_is_shown_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for part in command.split("&&") for word in shlex.split(part)]
    while re.fullmatch(r"\w+=\S*", words[0]):  # variables before the command
        check_variable(words.pop(0).partition("=")[0])
    program, arguments = Path(words[0]).name, words[1:]
    if program == "make":
        for word in arguments:
            if word.startswith("ARGS=") and "run" in arguments:
                check_ours(shlex.split(word.removeprefix("ARGS=")), capsys)
            elif not word.startswith(("-", "ARGS=")):
                assert word in make_targets()
    elif program == "alarmdigest":
        check_ours(arguments, capsys)
    elif program == "python" and arguments[:2] == ["-m", "alarmdigest"]:
        check_ours(arguments[2:], capsys)
    else:
        assert program in FOREIGN, f"no way to check {command!r}"


def test_make_help_lists_every_target_and_all_of_them_are_phony() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## \w", MAKEFILE, re.MULTILINE)
    assert set(explained) == set(phony.split()) == make_targets()


def test_make_installs_what_the_build_asks_for() -> None:
    [required] = re.findall(
        r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    [installed] = re.findall(r"^BUILDERS := (.*)$", MAKEFILE, re.MULTILINE)
    assert shlex.split(installed) == re.findall(r'"([^"]*)"', required)


# -- settings ------------------------------------------------------------------------------------


def test_the_readme_lists_every_option_with_its_default() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in cells(r"`--.*`")}
    options = {"--server URL": "", "--publish-empty": "", "--no-create-streams": ""}
    for item in fields(Settings):
        if "meta" in item.metadata:
            flag = "--" + item.name.replace("_", "-")
            options[f"{flag} {item.metadata['meta']}"] = item.metadata["default"]
    assert listed == options


def check_variable(name: str) -> None:
    known = {f"ALARMDIGEST_{item.name.upper()}" for item in fields(Settings)}
    setup = (ROOT / "setup.py").read_text("utf-8")
    known |= {f"ALARMDIGEST_{name}" for name in re.findall(r'switch\("(\w+)"\)', setup)}
    assert name in known, f"there is no variable {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_variables_and_metrics_that_are_named_are_there(document: Path) -> None:
    text = (ROOT / document).read_text("utf-8")
    for name in set(re.findall(r"\bALARMDIGEST_[A-Z_]+[A-Z]\b", text)):
        check_variable(name)
    metrics = (ROOT / "alarmdigest/monitor/metrics.py").read_text("utf-8")
    for name in set(re.findall(r"\balarmdigest_\w+", text)) - {"alarmdigest_"}:
        assert f'"{name.removesuffix("_total")}"' in metrics, f"there is no metric {name}"


def test_the_readme_lists_every_exit_code_and_every_reason() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    assert {int(row[0]) for row in cells(r"\d")} == codes
    assert [row[0].strip("`") for row in cells(r"`[a-z_]+`")] == list(REASONS)


# -- examples ------------------------------------------------------------------------------------


def test_the_messages_of_the_readme_belong_together() -> None:
    event, request, digest = (block.encode() for block in blocks(README, "json"))
    assert tuple(orjson.loads(event)) == EVENT_FIELDS
    alarm = read_event(event)
    assert read_request(request).user_id == alarm.user_id
    told = orjson.loads(digest)
    [entry] = told["ActiveAlarms"]
    again = {"UserID": told["UserID"], **entry, "ChangedAt": entry["LatestChangedAt"]}
    assert read_event(orjson.dumps(again)) == alarm


@pytest.mark.parametrize(
    ("history", "digests"), [row[:2] for row in cells(r"`.*, D`")], ids=lambda cell: cell.strip("`")
)
def test_the_rule_gives_what_the_readme_says(history: str, digests: str) -> None:
    assert replay(history.strip("`")) == re.findall(r"`(.*?)`", digests)


# -- files ---------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    text = (ROOT / document).read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / document).parent / path if path else ROOT / document
        assert found.exists(), f"{document} links to {target}"
        assert not anchor or anchor in anchors(found), f"{document} links to {target}"


@pytest.mark.parametrize("picture", sorted(ROOT.glob("docs/**/*.svg")), ids=lambda path: path.name)
def test_a_picture_can_be_read_aloud(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    for name in ("title", "desc"):
        element = root.find(f"{{http://www.w3.org/2000/svg}}{name}")
        assert element is not None
        assert (element.text or "").strip()


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## \[(.*?)\]", text, re.MULTILINE)[0] == __version__


def test_the_manifest_covers_the_sources_of_the_compiled_core() -> None:
    lines = (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
    [patterns] = [line.split()[2:] for line in lines if line.startswith("recursive-include ext ")]
    sources = [path.name for path in (ROOT / "ext").rglob("*.p*") if path.suffix != ".pyc"]
    assert sources
    assert [
        name for name in sources if not any(fnmatch.fnmatch(name, one) for one in patterns)
    ] == []
