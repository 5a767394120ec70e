"""docs/messages.md names what templates get, its examples work, and its pictures are of today."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from support import mail_picture
from support.browser import browser
from support.paths import ROOT

from alarmdigest.connect.deliver import clean_text, rendering, shown, template_limits
from alarmdigest.connect.deliver.rendering import Renderer
from alarmdigest.connect.deliver.sample_messages import FULL, SAMPLE_ZONE
from alarmdigest.connect.deliver.template_filters import JINJAS_OWN, built_in_filters

DOCUMENT = (ROOT / "docs/messages.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```jinja\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
HTML = mail_picture.html()


def first_cells(head: str) -> list[str]:
    """Of the table whose first heading that is."""
    [table] = re.findall(rf"^\| {head} \|.*\n\|---.*\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("variable", shown.Shown),
        ("of a section", shown.Section),
        ("of an alarm", shown.Alarm),
        ("of a link", shown.Link),
    ],
)
def test_every_name_that_a_template_gets_is_listed(head: str, kind: type) -> None:
    assert first_cells(head) == [one.name for one in fields(kind)]


def test_every_filter_is_listed() -> None:
    [sentence] = re.findall(r"^Besides these there are (.*?)\. Macros", DOCUMENT, re.M | re.S)
    own = {one.rpartition("|")[2].partition("(")[0] for one in first_cells("filter")}
    listed = re.findall(r"`(\w+)`", sentence)
    assert own == {"time", "duration"}
    assert {*listed} | own == {*built_in_filters(), "time"}
    assert listed == [*sorted({*built_in_filters()} - {*JINJAS_OWN, "duration"}), *JINJAS_OWN]


def test_every_block_of_the_mail_is_listed() -> None:
    template = ROOT / "alarmdigest/connect/deliver/templates/message.html"
    blocks = re.findall(r"{% block (\w+)", template.read_text("utf-8"))
    [sentence] = re.findall(r"^Its blocks are (.*?)\. A `", DOCUMENT, re.M | re.S)
    assert [one for one in re.findall(r"`(\w+)`", sentence) if one != "section"] == [
        *blocks[:4],
        "alarm",
        *blocks[4:],
    ]


def test_the_numbers_are_those_of_the_code() -> None:
    prose = " ".join(DOCUMENT.split())
    for sentence in (
        f"at most {rendering.SUBJECT_CHARS} characters",
        f"at most {rendering.SHORT_CHARS} characters",
        f"names and ids to {shown.TITLE_CHARS} characters",
        f"summaries to {shown.SUMMARY_CHARS}, descriptions to {shown.DESCRIPTION_CHARS:,}",
        f"labels to {shown.LABEL_CHARS}",
        f"{template_limits.CPU_S:g} s of the processor",
        f"each template {rendering.MAX_BYTES // 2**20} MiB",
        f"a loop {template_limits.MAX_ITEMS:,} steps",
        f"`@channel` becomes `{clean_text.for_chat('@channel')}`",
    ):
        assert sentence in prose
    assert (shown.FEW_LABELS, shown.MAX_LINKS) == (6, 4)


def test_the_examples_work(tmp_path: Path) -> None:
    html, subject = EXAMPLES
    (tmp_path / "message.html").write_text(html)
    (tmp_path / "subject.txt").write_text(subject)
    own = Renderer(tmp_path, most_rows=50).render(FULL, zone=SAMPLE_ZONE)
    assert own.subject == "[ada] 2 critical, 1 warning"
    assert own.html.index("Example Ltd.") < own.html.index("<h1") < own.html.index("Call 4711")


def test_a_row_takes_the_room_that_the_document_says() -> None:
    most = Renderer(None, most_rows=70)
    for alarms, at_least, at_most in ((17, 85_000, 110_000), (1, 5_000, 12_000)):
        one = FULL.__class__("ada", FULL.made_ns, (), FULL.new * alarms, (), (), True)
        assert at_least < len(most.render(one, zone=SAMPLE_ZONE).html) < at_most


@pytest.mark.parametrize("scheme", mail_picture.PICTURES)
def test_the_picture_is_of_this_mail(scheme: str) -> None:
    assert mail_picture.mark_in(mail_picture.PICTURES[scheme]) == mail_picture.mark_of(HTML), (
        "draw it anew: python -m support.mail_picture, in tests/"
    )


def test_it_fits_a_phone_and_can_be_read_in_light_and_dark(tmp_path: Path) -> None:
    """In a browser, which is what most mail programs are."""
    contrasts = (Path(__file__).parent / "contrasts.js").read_text("utf-8")
    with browser() as shown_in:
        for scheme in ("light", "dark"):
            for width in (360, 640):
                mail_picture.draw(shown_in, HTML, scheme, tmp_path / "mail.png", width)
                assert shown_in.script("document.documentElement.scrollWidth") == width
                worst, where = shown_in.script(f"({contrasts})()")
                assert worst >= 4.5, f"{scheme}: {where}"
            dark = shown_in.script("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(18, 22, 28)") is (scheme == "dark")
        named = {
            name.lower() for role, name in shown_in.accessible() if role in ("heading", "link")
        }
        assert named >= {"2 critical, 1 warning", "new (4)", "runbook", "unsubscribe"}
        assert shown_in.console() == []
        assert [url for url in shown_in.requested() if not url.startswith("file:")] == []
