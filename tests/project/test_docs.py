"""What the documents say is so: commands, options, links, examples and versions."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import orjson
import pytest
from state.test_model import replay
from support.paths import ROOT

from alarmdigest import __version__
from alarmdigest._ext.router import REQUEST
from alarmdigest.cli.main import main
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import FLAGS, Settings, read_settings
from alarmdigest.settings.options import LOCATORS, flag_of, variable
from alarmdigest.settings.reference import with_tables
from alarmdigest.wire.messages import EVENT_FIELDS, REASONS, parse_leniently, read_event

# Tests compare their lists with what is shown.
LISTS = ("metrics", "bridge", "schedules", "deliver")
DOCUMENTS = [
    path.relative_to(ROOT) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
]
README = (ROOT / "README.md").read_text("utf-8")
CONCEPTS = (ROOT / "docs/concepts.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")

# Other people's commands: whether they work is not for a test of ours to say.
FOREIGN = {
    *("chown", "install"),
    *("cd", "cp", "curl", "docker", "git", "helm", "kubectl", "mv", "nats", "pip", "python3"),
    *("mkdir", "prometheus", "prometheus-alertmanager", "sed", "ssh", "systemctl", "systemd-run"),
}


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


def options() -> set[str]:
    """Those of all our commands and tools, as argparse is told them."""
    tools = (*(ROOT / "alarmdigest/cli").glob("*arguments.py"), ROOT / "benchmarks/soak.py")
    given = "".join(path.read_text("utf-8") for path in tools)
    of_tools = {f"--{name}" for name in re.findall(r'\badd_option\(\w+, "(\w+)"', given)}
    literal = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', given))
    settings = {flag_of(name) for name in (*LOCATORS, *(item.name for item in fields(Settings)))}
    return literal | of_tools | settings


OPTIONS = options()


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
    assert re.search(rf"^    {command}( |$)", help_of("--help", capsys), re.MULTILINE), command
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
    if words[0] == "sudo":
        words.pop(0)
    program, arguments = Path(words[0]).name, words[1:]
    if program == "make":
        for word in arguments:
            if word.startswith("ARGS=") and "run" in arguments:
                check_ours(shlex.split(word.removeprefix("ARGS=")), capsys)
            elif word.startswith("ARGS=") and "soak" in arguments:
                assert set(re.findall(r"--[a-z-]+", word)) <= OPTIONS
            elif not word.startswith(("-", "ARGS=")):
                assert word in make_targets()
    elif program == "alarmdigest":
        check_ours(arguments, capsys)
    elif program == "python" and arguments[:2] == ["-m", "alarmdigest"]:
        check_ours(arguments[2:], capsys)
    elif program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None
    elif (ROOT / words[0]).is_file():  # a script of ours
        assert re.search(
            rf"^ +.*\b{arguments[0]}\b.*\)", (ROOT / words[0]).read_text(), re.MULTILINE
        )
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
    options = {flag_of(name): "" for name in FLAGS}
    for item in fields(Settings):
        if "meta" in item.metadata:
            written = f"{flag_of(item.name)} {item.metadata['meta']}"
            options[written] = item.metadata["default"]
    assert listed == options


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_options_that_are_named_are_there(document: Path) -> None:
    """In running text; what stands in a command is looked up with its command."""
    text = (ROOT / document).read_text("utf-8")
    for name in set(re.findall(r"`(--[a-z-]+)", text)):
        assert name in OPTIONS, f"there is no option {name}"


def test_the_operating_page_knows_every_exit_code() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    text = (ROOT / "docs/operating.md").read_text("utf-8")
    assert {int(row[0]) for row in cells(r"\d", text)} == codes


def test_the_reference_of_the_configuration_is_current() -> None:
    """If not: python -m alarmdigest.settings.reference docs/configuration.md"""
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    assert with_tables(page) == page
    for item in fields(Settings):
        assert f"`{variable(item.name)}`" in page


def test_the_settings_file_of_the_reference_can_be_read(tmp_path: Path) -> None:
    [example] = blocks((ROOT / "docs/configuration.md").read_text("utf-8"), "toml")
    (tmp_path / "settings.toml").write_text(example)
    settings = read_settings({"config": str(tmp_path / "settings.toml")}, {}).settings
    assert settings.server == ("tls://a.example.com", "tls://b.example.com")


def check_variable(name: str) -> None:
    known = {variable(name) for name in (*LOCATORS, *(item.name for item in fields(Settings)))}
    setup = (ROOT / "setup.py").read_text("utf-8")
    known |= {f"ALARMDIGEST_{name}" for name in re.findall(r'switch\("(\w+)"\)', setup)}
    # Of `bridge` and `deliver`, and of the sender for Netdata, which is a shell script.
    known |= {"ALARMDIGEST_BRIDGE_RULES", "ALARMDIGEST_DELIVER_ROUTES"}
    sender = (ROOT / "deploy/netdata/alarmdigest.sh").read_text("utf-8")
    known |= set(re.findall(r"^: \"\$\{(ALARMDIGEST_\w+):=", sender, re.MULTILINE))
    assert name in known, f"there is no variable {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_variables_that_are_named_are_there(document: Path) -> None:
    text = (ROOT / document).read_text("utf-8")
    for name in set(re.findall(r"\bALARMDIGEST_[A-Z_]+[A-Z]\b", text)):
        check_variable(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_metrics_that_are_named_are_there(document: Path) -> None:
    # Tests compare these lists with what the processes show.
    listed = "".join((ROOT / f"docs/{one}.md").read_text("utf-8") for one in LISTS)
    text = (ROOT / document).read_text("utf-8")
    for name in set(re.findall(r"\balarmdigest_\w+", text)) - {"alarmdigest_"}:
        known = f"| `{name}` |" in listed or name.endswith("_")
        assert known or document.stem in LISTS, f"there is no metric {name}"


def test_the_readme_lists_every_exit_code_and_every_reason() -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    assert {int(row[0]) for row in cells(r"\d")} == codes
    assert [row[0].strip("`") for row in cells(r"`[a-z_]+`")] == list(REASONS)


# -- what the program says -------------------------------------------------------------------------

FAQ = (ROOT / "docs/faq.md").read_text("utf-8")


def said(text: str) -> str:
    """The texts in a source, with those that are put together from several lines as one."""
    return re.sub(r'"\s*\n\s*f?"', "", text)


def seen_as() -> list[str]:
    """The parts of what the FAQ quotes, cut where the program puts in a value."""
    found = []
    for paragraph in re.split(r"\n\n+", FAQ):
        words = " ".join(paragraph.split())
        quoted = re.findall(r"[Ss]een as .*", words)
        for quote in re.findall(r"`([^`]*)`", quoted[0]) if quoted else []:
            if " " in quote and not quote.startswith(("nats ", "alarmdigest ")):
                found += [part.strip() for part in quote.split("…") if len(part.strip()) > 3]
    return found


@pytest.mark.parametrize("part", sorted(set(seen_as())))
def test_the_program_says_what_the_faq_quotes(part: str) -> None:
    sources = [*(ROOT / "alarmdigest").rglob("*.py"), *(ROOT / "alarmdigest").rglob("*.js")]
    assert any(part in said(source.read_text("utf-8")) for source in sources)


# -- examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["README.md", "docs/wire.md"])
def test_the_messages_that_are_shown_belong_together(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    event, *others = (block.encode() for block in blocks(text, "json"))
    [digest] = [one for one in others if b"ActiveAlarms" in one]
    about_user = [one for one in others if set(orjson.loads(one)) == {"UserID"}]
    assert tuple(orjson.loads(event)) == EVENT_FIELDS
    alarm = read_event(event)
    assert about_user
    user = alarm.user_id.encode()
    assert all(parse_leniently(REQUEST, one)[0] == user for one in about_user)
    told = orjson.loads(digest)
    [entry] = told["ActiveAlarms"]
    again = {"UserID": told["UserID"], **entry, "ChangedAt": entry["LatestChangedAt"]}
    assert read_event(orjson.dumps(again)) == alarm


@pytest.mark.parametrize(
    ("history", "digests"),
    [row[:2] for text in (README, CONCEPTS) for row in cells(r"`.*, D`", text)],
    ids=lambda cell: cell.strip("`"),
)
def test_the_rule_gives_what_the_documents_say(history: str, digests: str) -> None:
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


def test_the_index_of_the_documentation_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"^\| \[.*?\]\((\S+?)\)", index, re.MULTILINE))


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
