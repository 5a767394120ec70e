"""The page in a real browser: what an operator sees, hears and can reach with the keyboard."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from support.bridge import BridgeProcess, alert, webhook
from support.browser import Browser, browser
from support.bus import Bus
from support.deliver import DeliverProcess, routes
from support.faults import pairs
from support.group_service import GroupService
from support.nats_server import NatsServer
from support.receivers import WebServer
from support.scheduler import SchedulerProcess, schedule
from support.service import ServiceProcess
from support.streams import ALARMS, delete, js, store_all, stream_service
from support.wait import eventually

NONE = "\N{EN DASH}"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(server: NatsServer) -> Iterator[ServiceProcess]:
    """One that has something to show, in stream mode."""
    with ServiceProcess(server.url, mode="stream") as service:
        with Bus(server.url) as bus:
            bus.publish_all(pairs(range(100), padding="secret-"))
            bus.publish("AlarmStatusChanged", b'{"AlarmID": "<b>secret</b>"}')
            bus.publish("SendAlarmDigest", b"secret, and no JSON")
            bus.wait_for_digests(100)
            bus.wait_for_rejected(2)
        yield service


def address(service: ServiceProcess) -> str:
    return service.wait_for_log(r"on=(http://\S+)")[1]


def alarms_on(page: Browser) -> int:
    """The sum over all workers."""
    rows = page.text("#workers tbody").splitlines()
    return sum(int(row.split()[2].replace(",", "")) for row in rows)


@pytest.fixture
def page(tab: Browser, service: ServiceProcess) -> Browser:
    """The page of the service that is well, on a desk, by daylight."""
    tab.be_wide(1100)
    tab.prefer(prefers_color_scheme="light")
    tab.open(address(service) + "/")
    tab.wait_for_text("#sentence", "The service is well.")
    return tab


def test_it_says_that_the_service_is_well_and_what_it_holds(page: Browser) -> None:
    assert page.text("#reasons") == ""
    about = page.text("#about")
    assert "stream mode" in about
    assert "ALARMS, ALARM_DIGESTS, ALARM_REJECTED" in about
    assert len(page.text("#workers tbody").splitlines()) == 12
    assert alarms_on(page) == 100
    assert page.text("#behind-messages") == "0"
    assert page.text("#losses-sentence") == "Nothing was lost since the start."
    assert page.text("#changes-sentence") == (
        "No stream was changed under the service since the start."
    )
    assert "ms" in page.text("#checkpoint-seconds")
    assert (page.text("#alarms-held"), page.text("#alarms-active")) == ("100", "100")
    assert page.text("#alarms-due") == "0"
    assert page.text("#output-unconfirmed") == "0 B"
    assert re.fullmatch(r"\d\d:\d\d:\d\d UTC", page.text("#output-last"))
    assert page.script("document.querySelector('#happened').hidden") is True
    assert page.script("document.querySelector('#group').hidden") is True


def test_it_says_who_is_in_the_group_and_who_leads_it(tab: Browser) -> None:
    with NatsServer() as server, GroupService([server.url], replicas=2) as group:
        leader = group.leader()
        follower = next(one for one in group.replicas if one is not leader)
        names = {one: "ab"[index] for index, one in enumerate(group.replicas)}
        tab.open(address(follower) + "/")
        sentence = f"Group mail, led by {names[leader]}; this is {names[follower]}."
        tab.wait_for_text("#group-sentence", sentence)
        lines = tab.text("#members").splitlines()
        roles = [line.split(" · ")[0] for line in lines[1::2]]
        told = dict(zip(lines[::2], roles, strict=True))
        assert told == {names[leader]: "leader", names[follower]: "follower"}
        leader.kill()
        tab.wait_for_text("#group-sentence", f"Group mail, led by {names[follower]}; this is")


def stages(page: Browser) -> list[list[str]]:
    """The lines of each stage of the way of an alarm."""
    return [page.text(f"#way li:nth-child({n})").splitlines() for n in range(1, 7)]


def test_the_way_of_an_alarm_is_grey_where_nobody_runs_it(page: Browser) -> None:
    page.wait_for_text("#way", "deliver: not running")
    alerts, events, due, requests, digests, messages = stages(page)
    assert alerts == ["Alerts in", NONE, "bridge: not running"]
    assert events[0] == "Events"
    assert events[2:] == ["2 rejected messages", "this service"]
    assert due[:2] == ["Due", "0"]
    # They may come from others than the scheduler.
    assert requests[0] == "Requests"
    assert int(requests[1].replace(",", "")) >= 100
    assert requests[2:] == ["scheduler: not running"]
    assert digests[0] == "Digests"
    assert messages == ["Messages out", NONE, "deliver: not running"]
    grey = "[...document.querySelectorAll('#way .off .stage')].map(e => e.textContent)"
    assert page.script(grey) == ["Alerts in", "Requests", "Messages out"]


@pytest.mark.deliver
def test_the_way_of_an_alarm_has_the_figures_of_all_processes(tab: Browser) -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream") as service,
        WebServer() as web,
        BridgeProcess(server.url) as bridge,
        SchedulerProcess(server.url) as acting,
        SchedulerProcess(server.url) as other,
        DeliverProcess(server.url, routes=routes({"web": web.url()})) as deliver,
    ):
        tab.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
        tab.be_wide(1100)
        tab.open(address(service) + "/")
        schedule(server.url, "set", "--default", "--within", "0s")
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
        eventually(lambda: web.of("ada"), what="the message", timeout=20)
        tab.wait_for_text("#way li:last-child .now", "1", timeout=20)
        tab.wait_for_text("#way li:nth-child(4)", "2 processes, 1 acts", timeout=20)
        assert tab.script("document.querySelectorAll('#way .off').length") == 0
        alerts, events, due, requests, digests, messages = stages(tab)
        assert alerts == [
            *("Alerts in", "1", "0 rejected", "0 failed requests", "bridge: 1 process"),
        ]
        assert (events[1], due[1], digests[1]) == ("1", "0", "1")
        assert requests[1:5] == ["1", "1 by schedule", "0 waiting", "0 failed"]
        assert messages[2:] == ["0 waiting", "0 dead letters", "deliver: 1 process"]
        for scheme, width in (("light", 360), ("dark", 400), ("dark", 1280)):
            tab.be_wide(width)
            tab.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            assert tab.script("document.documentElement.scrollWidth") <= width
            assert tab.script(CONTRAST) == []
        # Whoever dies is forgotten; one that takes over is not missed.
        deliver.kill()
        (acting if acting.acting else other).kill()
        tab.wait_for_text("#way li:last-child", "deliver: not running", timeout=40)
        tab.wait_for_text("#way li:nth-child(4)", "scheduler: 1 process", timeout=40)
        assert stages(tab)[5] == ["Messages out", NONE, "deliver: not running"]


def test_it_says_which_service_it_is_and_whom_it_is_connected_to(
    page: Browser, service: ServiceProcess, server: NatsServer
) -> None:
    assert page.text("#about").startswith(f"{socket.gethostname()}, process {service.process.pid} ")
    assert f"Data directory\n{service.data_dir}" in page.text("#identity")
    assert "mode\nstream" in page.text("#settings")
    reading, line, *_ = page.text("#connections").splitlines()
    assert (reading, line.split(" · ")[:2]) == ("Reading", ["open", server.url])
    assert line.endswith(" · 0 reconnects")


def test_it_says_what_was_refused_and_why_but_not_what_it_was(page: Browser) -> None:
    assert {"json\n1", "schema\n1"} <= {
        page.text(f"#rejected div:nth-child({number})") for number in range(1, 6)
    }
    last = [line.split()[2:] for line in page.text("#rejected-last tbody").splitlines()]
    assert last == [["json", "19", "B"], ["schema", "28", "B"]]
    assert "secret" not in page.script("document.documentElement.outerHTML")


def test_times_are_those_of_the_log_wherever_the_browser_is(
    page: Browser, service: ServiceProcess
) -> None:
    match = service.wait_for_log(r"T(\d\d:\d\d:\d\d)\.\d+Z WARNING .* rejected a message")
    page.be_in("Asia/Kolkata")
    page.open(address(service) + "/")
    page.wait_for_text("#rejected-last tbody", "UTC")
    [*_, first] = page.text("#rejected-last tbody").splitlines()
    hour, minute = match[1].split(":")[:2]
    assert re.match(rf"{hour}:({minute}|{(int(minute) - 1) % 60:02}):\d\d UTC", first)
    assert re.fullmatch(r"As of \d\d:\d\d:\d\d UTC", page.text("#updated"))


def test_figures_change_without_a_reload(page: Browser, server: NatsServer) -> None:
    page.script("window.stays = true")
    before = alarms_on(page)
    with Bus(server.url) as bus:
        bus.publish_all(pairs(range(1000, 1300)))
        bus.wait_for_digests(300)
    eventually(lambda: alarms_on(page) == before + 300, what="the new alarms on the page")
    assert page.script("window.stays") is True


def test_it_can_be_paused(page: Browser) -> None:
    page.press_tab()
    page.press_enter()
    page.wait_for_text("#updated", "Paused at")
    assert page.script("document.querySelector('#pause').ariaPressed") == "true"
    page.press_enter()
    page.wait_for_text("#updated", "As of")


def test_it_asks_nobody_else_and_the_console_stays_empty(
    page: Browser, service: ServiceProcess
) -> None:
    page.console(), page.requested()
    page.open(address(service) + "/")
    seen: list[str] = []

    def polled_twice() -> bool:
        seen.extend(page.requested())
        return sum(url.endswith("/status.json") for url in seen) >= 2

    eventually(polled_twice, what="two polls")
    own = urlsplit(address(service)).netloc
    assert {urlsplit(url).netloc for url in seen if not url.startswith("data:")} == {own}
    assert page.console() == []


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_has_to_be_scrolled_sideways(page: Browser, width: int) -> None:
    page.be_wide(width)
    assert page.script("innerWidth") == width
    assert page.script("document.documentElement.scrollWidth") <= width
    too_wide = page.script(
        "[...document.querySelectorAll('body *')].filter(e =>"
        " e.getBoundingClientRect().right > innerWidth).map(e => e.id || e.localName)"
    )
    assert too_wide == []


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (rgb) => rgb.map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (e) => {
    while (e && getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)") e = e.parentElement;
    return parse(getComputedStyle(e ?? document.body).backgroundColor);
  };
  const found = [];
  for (const e of document.querySelectorAll("h1, h2, p, dt, dd, th, td, caption, a, button")) {
    if (!e.textContent.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${e.localName} ${e.textContent}: ${ratio}`);
  }
  return found;
})()"""


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_follows_the_colour_scheme_and_can_be_read(
    page: Browser, scheme: str, dark: bool
) -> None:
    page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    background = page.script("getComputedStyle(document.body).backgroundColor")
    red = int(background.split("(")[1].split(",")[0])
    assert (red < 64) == dark, background
    assert page.script(CONTRAST) == []


def test_without_motion_nothing_moves(page: Browser) -> None:
    moving = (
        "[...document.querySelectorAll('*')].filter(e =>"
        " !['0s', ''].includes(getComputedStyle(e).transitionDuration)).length"
    )
    page.prefer(prefers_reduced_motion="reduce")
    assert page.script(moving) == 0
    running = "document.getAnimations().filter(a => a.playState === 'running').length"
    eventually(lambda: page.script(running) == 0, timeout=2, what="what ran before to end")


def test_the_keyboard_goes_from_top_to_bottom(page: Browser) -> None:
    stops = [page.press_tab() for _ in range(6)]
    assert stops == [
        "button#pause Pause updates",
        "div workers-title",
        "a /readyz",
        "a /healthz",
        "a /metrics",
        "a /status.json",
    ]
    assert page.script("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_screen_reader_is_told_what_is_where(page: Browser) -> None:
    told = page.accessible()
    roles = [role for role, _name in told]
    for landmark in ("banner", "main", "contentinfo", "navigation"):
        assert roles.count(landmark) == 1, landmark
    headings = [name for role, name in told if role == "heading"]
    assert sorted(headings) == [
        *("Alarms", "Connections", "Digests going out", "How far behind", "Last checkpoint"),
        *("Losses", "Rejected", "Settings that are not the default", "Streams"),
        *("The service is well.", "The way of an alarm", "This service", "What flows", "Workers"),
        "alarmdigest",
    ]
    assert roles.count("status") == 1
    pictures = [name for role, name in told if role in ("image", "img")]
    assert [name.partition(":")[0] for name in pictures] == [
        *("Events per second", "Requests per second", "Digests per second", "Messages behind")
    ]
    tables = [name for role, name in told if role == "table"]
    assert tables == ["The last ones", "Batches that wait, and what each holds"]
    live = page.script("[...document.querySelectorAll('[aria-live=polite]')].map(e => e.innerText)")
    assert live == ["The service is well."]


def test_charts_show_the_last_minutes_also_to_who_cannot_see_them(page: Browser) -> None:
    lines = "document.querySelectorAll('#chart-events polyline').length"
    eventually(lambda: page.script(lines) == 1, timeout=20, what="a chart of the first samples")
    label = page.script("document.querySelector('#chart-events svg').ariaLabel")
    assert label.startswith("Events per second: now ")
    assert "at most " in label
    wrapped = (
        "[...document.querySelectorAll('.scale')].filter(scale =>"
        " new Set([...scale.children].map(part => part.offsetTop)).size > 1).length"
    )
    for width in (360, 545, 768, 1025, 1400):
        page.be_wide(width)
        assert page.script(wrapped) == 0, f"what stands below a chart breaks at {width}"


def test_it_says_in_words_what_was_lost_and_what_happened_to_the_streams(tab: Browser) -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        assert service.stop() == 0
        store_all(bus, pairs(range(10)))
        bus.run(js(bus).purge_stream(ALARMS))
        service.start()
        delete(bus, ALARMS)
        tab.prefer(prefers_color_scheme="light")
        tab.open(address(service) + "/")
        tab.wait_for_text("#changes", "Input stream recreated\n1", timeout=20)
        assert tab.text("#changes-sentence") == "A stream was changed under the service:"
        assert tab.text("#losses-sentence") == "Something was lost:"
        assert tab.text("#losses") == "Gone from the stream\n20"
        remade, lost = (
            line.partition(" UTC ")[2] for line in tab.text("#happened-list tbody").splitlines()
        )
        assert re.match(r"ALARMS was recreated at 20\d\d-\S+Z, ours was of 20\d\d-\S+Z \(", remade)
        assert lost == "ALARMS: messages 1 to 20 were deleted before we read them"
        for scheme, width in (("light", 360), ("dark", 1100)):
            tab.be_wide(width)
            tab.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            assert tab.script("document.documentElement.scrollWidth") <= width
            assert tab.script(CONTRAST) == []
        told = [name for role, name in tab.accessible() if role in ("term", "StaticText")]
        assert "Input stream recreated" in told


def test_in_core_mode_there_are_no_streams_that_could_change(tab: Browser) -> None:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:
        tab.open(address(service) + "/")
        tab.wait_for_text("#changes-sentence", "Core mode uses no streams.")


def test_it_says_when_the_service_is_not_well_and_when_it_is_gone(tab: Browser) -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode="stream") as service:
        tab.open(address(service) + "/")
        tab.wait_for_text("#sentence", "The service is well.")
        server.kill()
        tab.wait_for_text("#sentence", "The service does not do its work right now:")
        tab.wait_for_text("#reasons", "not subscribed to NATS")
        assert tab.script("document.title") == "not ready: alarmdigest"
        server.start()
        tab.wait_for_text("#sentence", "The service is well.", timeout=30)
        service.kill()
        tab.wait_for_text("#sentence", "The service cannot be reached.")
        assert "What is shown below is from" in tab.text("#reasons")
        tab.console()  # the browser itself complains about the polls that fail


def test_who_waits_is_shown_where_that_is_wanted(tab: Browser, server: NatsServer) -> None:
    odd = "<b>ada</b>" + "x" * 500
    with ServiceProcess(server.url, mode="core", options=["--show-users"]) as service:
        with Bus(server.url) as bus:
            body = '{"UserID":"%s","AlarmID":"%d","Status":"CRITICAL",'
            body += '"ChangedAt":"2026-01-02T03:04:05Z"}'
            events = [body % (odd, n) for n in range(3)] + [body % (f"u{n}", 1) for n in range(30)]
            bus.publish_all(("AlarmStatusChanged", one.encode()) for one in events)
        eventually(lambda: service.metric("alarmdigest_due_alarms") == 33, what="all to be merged")
        tab.be_wide(400)
        tab.open(address(service) + "/")
        tab.wait_for_text(
            "#waiting-sentence", "31 users wait for 33 due alarms; 11 of them are not shown."
        )
        first = tab.text("#waiting-users tbody").splitlines()[0]
        assert re.fullmatch(rf"{odd} \S+ (s|ms|min) 3 3 3", first.replace("\u00a0", " "))


def test_users_are_shown_nowhere_else(page: Browser, service: ServiceProcess) -> None:
    assert page.text("#waiting-sentence") == ""
    with pytest.raises(HTTPError) as refused:
        urlopen(address(service) + "/users.json")
    assert refused.value.code == 404
