"""What was lost or recreated is told in words: where it was counted, or else by its number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.bus import Bus
from support.faults import pairs
from support.nats_server import NatsServer
from support.streams import DIGESTS, delete, stream_service
from support.wait import eventually

from alarmdigest.observability import incident_recorder
from alarmdigest.observability.incident_recorder import IncidentRecorder
from alarmdigest.observability.losses import PLACES, json_key
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.incidents import KEPT, Incidents
from alarmdigest.settings import Settings
from alarmdigest.store.memory import MemoryStore


def test_only_the_newest_are_kept_and_all_are_counted() -> None:
    incidents = Incidents()
    for number in range(KEPT + 7):
        incidents.record("listener", f"message {number}", 2)
    assert incidents.recorded("listener") == 2 * (KEPT + 7)
    newest = incidents.newest()
    assert len(newest) == KEPT
    assert newest[0].sentence == f"message {KEPT + 6}"


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> Incidents:
    """Nothing yet."""
    incidents = Incidents()
    monkeypatch.setattr(incident_recorder, "incidents", incidents)
    return incidents


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What is counted as lost, to be changed."""
    counts = dict.fromkeys(PLACES, 0)
    monkeypatch.setattr(incident_recorder, "losses", lambda _service: counts)
    return counts


def new_recorder() -> IncidentRecorder:
    settings = Settings()
    return IncidentRecorder(Service(settings, ["nats://127.0.0.1:1"], MemoryStore(), lambda: True))


def told(recorder: IncidentRecorder) -> list[tuple[str, int]]:
    recorder.check()
    return [(one["kind"], one["count"]) for one in recorder.newest()]


@pytest.mark.parametrize("place", incident_recorder.COUNTED_ONLY)
def test_a_loss_of_which_only_a_number_is_known_is_told_once_and_more_of_it_later(
    lost: dict[str, int], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = json_key(place)
    recorder = new_recorder()
    assert told(recorder) == []
    lost[place] = 3
    assert told(recorder) == [(kind, 3)]
    lost[place] = 5
    assert told(recorder) == [(kind, 3)], "not a line for each look"
    monkeypatch.setattr(incident_recorder, "REPEAT_INTERVAL_S", 0.0)
    assert told(recorder) == [(kind, 2), (kind, 3)]
    assert told(recorder) == [(kind, 2), (kind, 3)]


def test_what_is_noted_where_it_is_counted_is_not_told_twice(
    lost: dict[str, int], recorded: Incidents, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = new_recorder()
    lost["stream_unread_lost"] = 4
    assert told(recorder) == [], "whoever counts it may still be asking"
    recorded.record("stream_unread_lost", "ALARMS: messages 1 to 4", 4)
    monkeypatch.setattr(incident_recorder, "RECORDED_WITHIN_S", 0.0)
    assert told(recorder) == [("stream_unread_lost", 4)]
    lost["stream_unread_lost"] = 5
    assert told(recorder) == [("stream_unread_lost", 1), ("stream_unread_lost", 4)]


def test_an_output_stream_that_is_made_anew_is_named() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        bus.publish_all(pairs(range(5)))
        bus.wait_for_digests(5)
        delete(bus, DIGESTS)
        # It notices when it publishes the next one.
        bus.publish_all(pairs(range(5, 10)))

        def happened() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(service.http("/status.json")[1])["happened"]
            return found

        eventually(lambda: happened() != [], timeout=30, what="an incident")
        [one] = happened()
        assert (one["kind"], one["count"]) == ("output_recreated", 1)
        assert one["what"].startswith(f"{DIGESTS} is another stream than before: message 5 ")
