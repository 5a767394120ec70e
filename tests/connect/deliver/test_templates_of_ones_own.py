"""Templates in a folder: they replace the built-in ones one by one, and cannot do any harm."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from alarmdigest.connect.deliver import template_limits
from alarmdigest.connect.deliver.message import CRITICAL, AlarmLine
from alarmdigest.connect.deliver.rendering import Rendered, Renderer, TemplateFailed
from alarmdigest.connect.deliver.sample_messages import BARE, FULL
from alarmdigest.settings import SettingsError

ZONE = ZoneInfo("Europe/Berlin")
BUILT_IN = Renderer(None, most_rows=50)
# What no sample is: templates that fail on this only come through the start.
UNUSUAL = replace(BARE, user_id="unusual")


@pytest.fixture
def little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "CPU_S", 0.2)


def renderer(folder: Path, **texts: str) -> Renderer:
    """``message_html`` is the text of message.html."""
    for name, text in texts.items():
        stem, _, ending = name.rpartition("_")
        (folder / f"{stem}.{ending}").write_text(text, "utf-8")
    return Renderer(folder, most_rows=50)


def refusal(folder: Path, **texts: str) -> str:
    with pytest.raises(SettingsError) as raised:
        renderer(folder, **texts)
    return str(raised.value)


def failure(folder: Path, text: str, name: str = "message_txt") -> str:
    """Of a template that comes through the start, and fails when it is used."""
    given = f"{{% if user_id == 'unusual' %}}{text}{{% endif %}}x"
    chosen = renderer(folder, **{name: given})
    before = time.thread_time()
    with pytest.raises(TemplateFailed) as raised:
        chosen.render(UNUSUAL, zone=ZONE)
    assert time.thread_time() - before < template_limits.CPU_S + 1.0
    chosen.render(FULL, zone=ZONE)  # costs nobody else anything
    return str(raised.value)


def render(folder: Path, **texts: str) -> Rendered:
    return renderer(folder, **texts).render(FULL, zone=ZONE, unsubscribe="https://a.b/c")


@pytest.mark.parametrize("name", ["subject", "text", "html", "short"])
def test_one_template_is_replaced_and_the_others_stay(tmp_path: Path, name: str) -> None:
    file = {"text": "message_txt", "html": "message_html"}.get(name, f"{name}_txt")
    own = render(tmp_path, **{file: "mine for {{ user_id }}"})
    built_in = BUILT_IN.render(FULL, zone=ZONE, unsubscribe="https://a.b/c")
    assert getattr(own, name).strip() == "mine for ada"
    assert replace(own, **{name: getattr(built_in, name)}) == built_in


def test_blocks_of_the_built_in_one_can_be_replaced(tmp_path: Path) -> None:
    html = render(
        tmp_path,
        message_html="""{% extends "built_in/message.html" %}
{% block style %}.card { border: 0 }{% endblock %}
{% block header %}{{ super() }}<p>Example Ltd., {{ made_ns|time("%H:%M") }}</p>{% endblock %}
{% block alarm %}{{ alarm.title }}!{% endblock %}
{% block footer %}<i>bye</i>{% endblock %}""",
    ).html
    assert "<p>Example Ltd., 11:00</p>" in html
    assert "2 critical, 1 warning</h1>" in html
    assert "DiskFull!" in html
    assert "disk of db1 is full</div>" not in html
    assert "Unsubscribe" not in html


def test_a_template_may_include_a_file_of_the_folder(tmp_path: Path) -> None:
    html = render(
        tmp_path, message_html='{% include "foot.html" %}', foot_html="<b>{{ user_id }}</b>"
    ).html
    assert html == "<b>ada</b>\n"


def test_filters_macros_and_loops_are_there(tmp_path: Path) -> None:
    told = render(
        tmp_path,
        message_txt="""{% macro row(alarm) %}{{ loop_mark }}{{ alarm.title|upper }}{% endmacro %}
{% set loop_mark = "- " %}
{% for alarm in new.alarms if alarm.status == "CRITICAL" %}
{{ loop.index }}/{{ loop.length }} {{ row(alarm) }} {{ alarm.labels.get("team", "?") }}
{% endfor %}
{{ new.alarms|map(attribute="status")|unique|join("+") }}
{{ "a\nb"|indent(3) }} {{ "aXa"|replace("X", "b") }} {{ 90000 * 10 ** 9 // 1|int|abs }}
{{ (new.total + cleared.total) * 2 }} {{ 5400000000000|duration }}""",
    ).text
    assert told.splitlines() == [
        "1/2 - DISKFULL storage",
        "2/2 - REPLICATIONLAG storage",
        "CRITICAL+WARNING+CLEARED",
        "a",
        "   b aba 90000000000000",
        "10 1 h 30 min",
    ]


def test_html_is_escaped_in_ones_own_template_too(tmp_path: Path) -> None:
    one = replace(BARE, new=(AlarmLine("<b>\"'&", CRITICAL, 0, labels={"a": "<i>"}),))
    own = renderer(
        tmp_path,
        message_html="""x{% for a in new.alarms %}{% set x %}{{ a.title }}{% endset %}{{ x }}
{{ [a.title, "<u>"]|join("<br>") }} {{ a.labels.values()|join }} {{ a.title ~ "!" }}
{{ a.title|upper|replace("B", "<") }}{% endfor %}""",
    )
    html = own.render(one, zone=ZONE).html
    assert "<" not in html
    assert html.count("&lt;b&gt;&#34;&#39;&amp;") == 3
    assert own.render(one, zone=ZONE).text.count("<b>\"'&") == 1  # no HTML, nothing to escape


# -- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("\n\n{% for %}", 3, "Expected"),
        ("{% for alarm in new.alarms %}", 1, "endfor"),
        ("{{ usr_id }}", 1, "'usr_id' is undefined"),
        ("\n{% for a in new.alarms %}{{ a.titel }}{% endfor %}", 2, "no attribute 'titel'"),
        ("{% for a in new.alarms %}{{ a.labels.team }}{% endfor %}", 1, "no attribute 'team'"),
        ("{% for a in new.alarms %}{{ a.links[0].url }}{% endfor %}", 1, "no element 0"),
        ("{{ new.alarms|frist }}", 1, "No filter named 'frist'"),
        ("{{ user_id|safe }}", 1, "No filter named 'safe'"),
        ("{% autoescape false %}x{% endautoescape %}", 1, "autoescape cannot be changed"),
        ('{% import "x.txt" as x %}', 1, "import is not offered"),
        ('{% from "x.txt" import y %}', 1, "import is not offered"),
        ('{% include "missing.txt" %}', 1, "there is no template missing.txt"),
        ('{% include "../../etc/passwd" %}', 1, "there is no template"),
        ('{% include "/etc/passwd" %}', 1, "there is no template"),
        ('\n{% include "message.txt" %}', 2, "without end"),
        ("{{ made_ns|time('%5000000d') }}", 1, "may have % with one of"),
        ("{{ 1 // 0 }}", 1, "division"),
        ("{# nothing #}", 0, "it writes nothing"),
    ],
)
def test_a_broken_template_is_refused_at_the_start(
    tmp_path: Path, text: str, line: int, why: str
) -> None:
    said = refusal(tmp_path, message_txt=text)
    assert said.startswith(f"{tmp_path / 'message.txt'}{f', line {line}' if line else ''}: ")
    assert why in said
    assert "docs/messages.md" in said


def test_all_broken_templates_are_told_at_once_with_the_file_that_is_at_fault(
    tmp_path: Path,
) -> None:
    said = refusal(
        tmp_path,
        subject_txt="{{ nobody }}",
        message_html='<p>\n{% include "foot.html" %}',
        foot_html="\n\n{{ nothing }}",
    )
    first, second = said.split("; ")
    assert str(tmp_path / "subject.txt") in first
    assert f"{tmp_path / 'foot.html'}, line 3: 'nothing' is undefined" in second


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot read the folder" in refusal(tmp_path / "missing")
    (tmp_path / "message.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "short.txt").write_text("x" * 300_000)
    (tmp_path / "message.html").mkdir()
    said = refusal(tmp_path)
    assert "message.txt: not text in UTF-8" in said
    assert "short.txt: longer than" in said
    assert f"cannot read {tmp_path / 'message.html'}: Is a directory" in said


def test_a_slip_in_the_name_of_a_file_is_told(tmp_path: Path) -> None:
    said = refusal(tmp_path, subjct_txt="x")
    assert "subjct.txt: no template includes it; do you mean subject.txt?" in said
    (tmp_path / "subjct.txt").rename(tmp_path / "README.md")
    renderer(tmp_path)


def test_a_template_that_fails_on_one_message_says_where(tmp_path: Path) -> None:
    said = failure(tmp_path, "\n\n{{ new.alarms[7].title }}")
    assert said.startswith(f"{tmp_path / 'message.txt'}, line 3: ")
    assert "no element 7" in said


def test_a_subject_or_a_text_that_is_empty_is_a_failure(tmp_path: Path) -> None:
    own = renderer(tmp_path, subject_txt="{% if user_id != 'unusual' %}x{% endif %}")
    with pytest.raises(TemplateFailed, match=r"subject\.txt: it writes nothing"):
        own.render(UNUSUAL, zone=ZONE)


def test_a_subject_is_made_one_line_whatever_its_template_writes(tmp_path: Path) -> None:
    own = render(tmp_path, subject_txt="a\r\nBcc: {{ user_id }}\n\u202eb{{ 'x' * 500 }}")
    assert own.subject.startswith("a Bcc: ada bxxx")
    assert len(own.subject) == 150


# -- what is clumsy or means harm ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ user_id|attr('__class__') }}",
        "{{ [user_id]|map(attribute='__class__')|join }}",
        "{{ new.__init__.__globals__ }}",
        "{{ new.alarms[0].__class__.__base__.__subclasses__() }}",
        "{{ self._TemplateReference__context }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m._environment }}",
        "{{ '{0.__class__}'.format(user_id) }}",
        "{{ '%s'.format_map({}) }}",
        "{{ new.alarms[0].labels.update({'a': 'b'}) }}",
        "{{ user_id.encode() }}",
        "{{ (1).to_bytes(5, 'big') }}",
        "{{ time.__globals__ }}",
        "{{ lipsum(5) }}",
    ],
)
def test_nothing_leads_out_of_the_sandbox(tmp_path: Path, text: str) -> None:
    said = failure(tmp_path, text) if "|attr" not in text else refusal(tmp_path, message_txt=text)
    assert "message.txt, line 1: " in said
    assert "unsafe" in said or "undefined" in said or "has no attribute" in said or "attr" in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{% for x in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "1,048,576 bytes"),
        ("{{ 'x' * 10**9 }}", "by + or *"),
        ("{{ 10**9 * 'x' }}", "by + or *"),
        ("{{ ['x'] * 10**9 }}", "by + or *"),
        ("{{ 10**(10**10) }}", "exponent"),
        ("{{ (2**200) * (2**200) * (2**200) }}", "bits"),
        ("{{ '%1000000000d' % 1 }}", "write them with ~"),
        ("{% set x = 'xxxxxxxx' %}" + "{% set x = x ~ x %}" * 40, "1,048,576 characters"),
        ("{{ '{:1000000000}'.format(1) }}", "unsafe"),
        ("{% set x = 'xx' %}" + "{% set x = x|replace('x', x) %}" * 40, "1,048,576 characters"),
        ("{{ range(999)|join('x' * 9999) }}", "1,048,576 characters"),
        ("{{ 'x'|indent(10**9) }}", "indent"),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "without end"),
        (
            "{% macro m() %}{% for a in range(99) %}{{ 'x' * 99999 }}{% endfor %}{% endmacro %}"
            "{% set y = m() %}",
            "characters",
        ),
        ("{% set y %}{% for a in range(99) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}", "charact"),
    ],
)
def test_loops_and_texts_without_end_are_ended(tmp_path: Path, text: str, why: str) -> None:
    said = failure(tmp_path, text)
    assert re.search(r"message\.txt(, line 1)?: ", said)
    assert why in said


@pytest.mark.usefixtures("little_time")
@pytest.mark.parametrize(
    "text",
    [
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(40) }}",
    ],
)
def test_what_writes_nothing_is_ended_by_the_clock(tmp_path: Path, text: str) -> None:
    assert "message.txt, line 1: it takes more than 0.2 s" in failure(tmp_path, text)


@pytest.mark.usefixtures("little_time")
def test_includes_that_multiply_are_ended(tmp_path: Path) -> None:
    twice = "{% set n = n - 1 %}{% if n > 0 %}" + '{% include "again.txt" %}' * 2 + "{% endif %}"
    (tmp_path / "again.txt").write_text(twice)
    said = failure(tmp_path, '{% set n = 40 %}{% include "again.txt" %}')
    assert "it takes more than 0.2 s" in said


@pytest.mark.parametrize("name", ["subject_txt", "message_html", "short_txt"])
def test_the_limits_are_those_of_all_templates(tmp_path: Path, name: str) -> None:
    assert "1,048,576 bytes" in failure(
        tmp_path, "{% for a in range(99) %}{{ 'x' * 99999 }}{% endfor %}", name
    )


def test_a_text_of_a_stranger_is_never_a_template() -> None:
    name = "{{ 7 * 7 }}{% for x in range(10**9) %}"
    told = BUILT_IN.render(replace(BARE, new=(AlarmLine(name, CRITICAL, 0),)), zone=ZONE)
    assert name in told.text
    assert "49" not in told.subject


def test_several_threads_render_with_one_renderer(tmp_path: Path) -> None:
    own = renderer(tmp_path, subject_txt="{{ user_id }} {{ made_ns|time('%H %Z') }}")
    zones = {"UTC": "10 UTC", "Europe/Berlin": "11 CET", "America/New_York": "05 EST"}
    told: list[tuple[str, str]] = []

    def work(zone: str) -> None:
        for _ in range(20):
            one = replace(FULL, user_id=zone)
            told.append((zone, own.render(one, zone=ZoneInfo(zone)).subject))

    threads = [threading.Thread(target=work, args=(zone,)) for zone in zones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 60
    assert all(subject == f"{zone} {zones[zone]}" for zone, subject in told)
