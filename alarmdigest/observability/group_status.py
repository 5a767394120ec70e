"""What a replica knows of its group: for the page, ``status``, /metrics and /readyz."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alarmdigest.pipeline.service import Service


def group_status(service: Service) -> dict[str, Any] | None:
    """As JSON has it; None outside a group."""
    replica = service.replica
    if replica is None or replica.group is None:
        return None
    exchange, membership = replica.exchange, replica.group.membership
    leader = membership.leader
    own = {
        "name": replica.identity.name,
        "leads": replica.leads,
        "alive": True,
        "input": service.listener.router.sequence if service.listener is not None else 0,
    }
    others = [
        {
            "name": member.beat.name,
            "leads": member is leader,
            "alive": membership.alive(member),
            "input": member.beat.position,
        }
        for _name, member in sorted(membership.members.copy().items())
    ]
    return {
        "group": replica.identity.group,
        "replica": replica.identity.name,
        "role": "leader" if replica.leads else "follower",
        "token": membership.token,
        "stored_through": exchange.word.sequence,
        "elections": exchange.elections,
        "elections_lost": exchange.lost_elections,
        "diverged": exchange.diverged or None,
        "members": [own, *others],
    }


def group_metrics(service: Service) -> Iterator[Metric]:
    found = group_status(service)
    if found is None:
        return
    members = found["members"]
    yield GaugeMetricFamily(
        "alarmdigest_leader", "1 while this replica leads its group.", value=members[0]["leads"]
    )
    yield GaugeMetricFamily(
        "alarmdigest_group_members",
        "Replicas of the group that are heard, this one included.",
        value=sum(one["alive"] for one in members),
    )
    yield GaugeMetricFamily(
        "alarmdigest_group_has_leader",
        "1 while this replica leads, or hears one that does.",
        value=any(one["leads"] and one["alive"] for one in members),
    )
    yield GaugeMetricFamily(
        "alarmdigest_group_diverged",
        "1 when this replica has made other digests than the leader.",
        value=found["diverged"] is not None,
    )
    yield CounterMetricFamily(
        "alarmdigest_elections",
        "Times that this replica was elected, or has renewed its leadership.",
        value=found["elections"],
    )
    yield CounterMetricFamily(
        "alarmdigest_elections_lost",
        "Times that another replica was elected while this one led or stood.",
        value=found["elections_lost"],
    )
