"""The last minutes of a service, and the rates that follow from them."""

from __future__ import annotations

from alarmdigest.observability.history import KEPT_S, STEP_S, History, Sample, rates_between


def sample(at: float, count: int = 0) -> Sample:
    return Sample(at=at, events=count, requests=2 * count, digests=3 * count, behind=0)


def test_a_sample_is_wanted_once_in_a_step() -> None:
    history = History()
    assert history.wants_one(7.0)
    history.add(sample(7.0))
    assert not history.wants_one(7.0 + STEP_S - 0.1)
    assert history.wants_one(7.0 + STEP_S)


def test_it_reaches_back_just_as_far_as_it_says() -> None:
    history = History()
    for number in range(1000):
        history.add(sample(number * STEP_S))
    kept = history.samples()
    assert kept[-1].at - kept[0].at == KEPT_S
    assert kept[-1].at == 999 * STEP_S


def test_rates_are_per_second() -> None:
    rates = rates_between(sample(10.0, 100), sample(12.0, 150))
    assert rates == {"events": 25.0, "requests": 50.0, "digests": 75.0}


def test_the_present_rate_is_not_taken_from_a_mere_moment() -> None:
    history = History()
    assert history.rates(sample(1.0, 5))["events"] == 0.0
    history.add(sample(0.0, 0))
    history.add(sample(STEP_S, 100))
    just_after = history.rates(sample(STEP_S + 0.1, 101))
    assert just_after["events"] == round(101 / (STEP_S + 0.1), 1)
    assert history.rates(sample(2 * STEP_S, 100))["events"] == 0.0
