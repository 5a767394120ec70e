"""Messages on which templates are tried when the process starts: one with everything, one with as
little as there can be, and one of which all has ended."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, AlarmLine, Message

MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
# 2026-11-24, 11:00 in Berlin.
MADE_NS = 1_795_514_400 * 10**9
SAMPLE_ZONE = ZoneInfo("Europe/Berlin")

FULL = Message(
    user_id="ada",
    made_ns=MADE_NS,
    digest_ids=("5f0c6d8e9b1a4c27a3e2d1f0b9c8a765",),
    new=(
        AlarmLine(
            'DiskFull{instance="db1:9100"}',
            CRITICAL,
            MADE_NS - 48 * MINUTE_NS,
            name="DiskFull",
            summary="disk of db1 is full",
            description="/var/lib/postgresql has 0 bytes left.\nWrites fail.",
            labels={"alertname": "DiskFull", "instance": "db1:9100", "team": "storage"},
            links={
                "runbook": "https://wiki.example.com/disk-full",
                "dashboard": "https://grafana.example.com/d/disks?var-node=db1",
            },
        ),
        AlarmLine(
            'ReplicationLag{instance="db2:9100"}',
            WARNING,
            MADE_NS - 20 * MINUTE_NS,
            name="ReplicationLag",
            summary="db2 is 94 s behind db1",
            labels={"alertname": "ReplicationLag", "instance": "db2:9100", "team": "storage"},
            links={"silence": "https://alertmanager.example.com/#/silences/new"},
            now=CRITICAL,
        ),
        AlarmLine(
            "backup of db1",
            WARNING,
            MADE_NS - 31 * HOUR_NS,
            name="Backup failed",
            summary="no backup of db1 since Sunday",
        ),
        AlarmLine(
            'HighLatency{service="checkout"}',
            CRITICAL,
            MADE_NS - 9 * MINUTE_NS,
            name="HighLatency",
            summary="99 % of requests to checkout take up to 2.3 s",
            labels={"alertname": "HighLatency", "service": "checkout"},
            now=CLEARED,
        ),
    ),
    still_active=(
        AlarmLine(
            'CertificateExpires{host="www.example.com"}',
            WARNING,
            MADE_NS - 75 * HOUR_NS,
            name="CertificateExpires",
            summary="the certificate of www.example.com ends in 6 days",
            labels={"host": "www.example.com"},
            now=WARNING,
        ),
    ),
    cleared=(
        AlarmLine(
            'NodeDown{instance="web3:9100"}',
            CLEARED,
            MADE_NS - 12 * MINUTE_NS,
            name="NodeDown",
            summary="web3 did not answer",
            labels={"instance": "web3:9100"},
        ),
    ),
    state_known=True,
)

BARE = Message(
    user_id="ada",
    made_ns=MADE_NS,
    digest_ids=(),
    new=(AlarmLine("DiskFull", WARNING, MADE_NS),),
    still_active=(),
    cleared=(),
    state_known=False,
)

ENDED = Message(
    user_id="ada",
    made_ns=MADE_NS,
    digest_ids=("5f0c6d8e9b1a4c27a3e2d1f0b9c8a765",),
    new=(),
    still_active=(),
    cleared=FULL.cleared,
    state_known=True,
)

SAMPLES = (FULL, BARE, ENDED)
