"""The commands that connect the service to other systems, and to people."""

from __future__ import annotations

import argparse

from alarmdigest.cli.argument_helpers import ITS_SERVER, add_json, add_settings, command
from alarmdigest.cli.option_groups import TO_CONNECT

OF_THE_BRIDGE = (
    *("event_subject", "rejected_subject", "events_stream", "rejected_stream", "js_domain"),
    *("no_create_streams", "stream_replicas", "no_service_api"),
    *("connect_timeout", "ping_interval", "drain_timeout", *TO_CONNECT),
)

OF_SCHEDULES = ("js_domain", "no_create_streams", "stream_replicas", *TO_CONNECT)
OF_THE_SCHEDULER = (
    *("request_subject", "digest_subject", "query_subject", "due_subject", "group"),
    *("events_stream", "connect_timeout", "ping_interval", "drain_timeout", "no_service_api"),
    *OF_SCHEDULES,
)
NO_BUCKET = "do not make the bucket of schedules if it is missing: fail instead"
NOT_ASKED = "do not answer the NATS service API: the service's page shows it as not running"
ITS_REPLICAS = "on how many servers of a cluster the bucket is kept, if we make it"


OF_DELIVER = (
    *("request_subject", "digest_subject", "query_subject", "digests_stream", "js_domain", "group"),
    *("no_create_streams", "stream_replicas", "no_service_api"),
    *("connect_timeout", "ping_interval", "drain_timeout", *TO_CONNECT),
)


def add_connect_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add_bridge(commands)
    _add_schedule(commands)
    _add_scheduler(commands)
    _add_deliver(commands)


def _add_schedule(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    schedule = command(
        commands,
        "schedule",
        "who gets a digest when: set, pause, resume, list, remove, import, export",
        takes="ACTION [USER]",
        description="Changes the schedules, which a scheduler follows at once:\n"
        "  schedule set USER|--default --cron LINE | --within TIME ...\n"
        "  schedule pause USER|--default [--until WHEN], schedule resume USER|--default\n"
        "  schedule list [USER], schedule remove USER|--default\n"
        "  schedule export > FILE, schedule import FILE [--only-these]\n"
        "Needs the extra: pip install 'alarmdigest[schedule]'. docs/schedules.md.",
    )
    schedule.add_argument(
        "action",
        metavar="ACTION",
        choices=("set", "pause", "resume", "list", "remove", "import", "export"),
        help="what to do",
    )
    schedule.add_argument("whose", metavar="USER", nargs="?", help="the UserID, or the file")
    schedule.add_argument(
        "--default", action="store_true", help="for all users without a schedule of their own"
    )
    schedule.add_argument(
        "--cron",
        metavar="LINE",
        action="append",
        help='five fields, such as "0 8 * * 1-5"; may be repeated',
    )
    schedule.add_argument("--timezone", metavar="ZONE", help="such as Europe/Athens (default: UTC)")
    schedule.add_argument(
        "--within",
        metavar="TIME",
        help="so long something waits at most from when it became due",
    )
    schedule.add_argument(
        "--critical-within", metavar="TIME", help="the same where something is CRITICAL"
    )
    schedule.add_argument(
        "--send-between", metavar="FROM-TO", help="local times, such as 07:00-22:00; else wait"
    )
    schedule.add_argument(
        "--critical-anytime", action="store_true", help="but not where something is CRITICAL"
    )
    schedule.add_argument(
        "--until",
        metavar="WHEN",
        help="the end of a pause, such as 2026-12-24T08:00 (default: until resumed)",
    )
    schedule.add_argument(
        "--only-these", action="store_true", help="with import: remove all that the file has not"
    )
    add_json(schedule)
    add_settings(
        schedule,
        OF_SCHEDULES,
        {"server": ITS_SERVER, "no_create_streams": NO_BUCKET, "stream_replicas": ITS_REPLICAS},
    )


def _add_scheduler(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    scheduler = command(
        commands,
        "scheduler",
        "sends the requests for digests at the times of the schedules",
        description="Hears from the service who becomes due, and publishes a SendAlarmDigest for\n"
        "each at the time of the user's schedule. Of several that run, one acts.\n"
        "Needs the extra: pip install 'alarmdigest[schedule]'. docs/schedules.md.",
    )
    scheduler.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:9597",
        help="where health and metrics are served, or off (default: 127.0.0.1:9597)",
    )
    add_settings(
        scheduler,
        OF_THE_SCHEDULER,
        {
            "server": ITS_SERVER,
            "request_subject": "requests go out here",
            "digest_subject": "the service's; of several services it tells which one is meant",
            "query_subject": "the service is asked below it",
            "due_subject": "the service tells here who became due",
            "events_stream": "the stream that has to store requests",
            "no_create_streams": NO_BUCKET,
            "stream_replicas": ITS_REPLICAS,
            "no_service_api": NOT_ASKED,
        },
    )


def _add_bridge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bridge = command(
        commands,
        "bridge",
        "alerts of Alertmanager, Grafana and Netdata over HTTP become events",
        description="Listens for webhooks at /alertmanager, /grafana, /netdata, /netdata-cloud\n"
        "and /alerts, and publishes each alert as an event of its users. Answers 200\n"
        "once the stream has stored all of it. docs/bridge.md describes the rules.",
    )
    bridge.add_argument(
        "--rules",
        metavar="FILE",
        help="who an alert is for, what its alarm is called, who may send: TOML, see "
        "deploy/bridge.toml (default: ALARMDIGEST_BRIDGE_RULES, else the defaults in there)",
    )
    bridge.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help="where webhooks come in (default: the file's, else 127.0.0.1:9596)",
    )
    bridge.add_argument(
        "--explain",
        metavar="FILE",
        help="start nothing; show what this webhook's body would become (- is stdin), and end with "
        "1 if a part of it would be rejected",
    )
    bridge.add_argument(
        "--sender",
        metavar="NAME",
        help="for --explain: alertmanager, grafana, netdata, netdata-cloud or alerts (default: by "
        "the look of it)",
    )
    add_json(bridge)
    add_settings(
        bridge,
        OF_THE_BRIDGE,
        {
            "server": ITS_SERVER,
            "event_subject": "events go out here",
            "rejected_subject": "and what can be none here",
            "events_stream": "the stream that has to store events",
            "rejected_stream": "the stream that has to be there for those that can be none",
            "no_create_streams": "do not make buckets that are missing: not ready instead",
            "stream_replicas": "on how many servers of a cluster the buckets that we make are kept",
            "no_service_api": NOT_ASKED,
        },
    )


def _add_deliver(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    deliver = command(
        commands,
        "deliver",
        "digests become messages to people: mail, chat and push",
        description="Reads digests from their stream, makes a message of each, and sends it\n"
        "through Apprise to those whom the file of routes names. What cannot be\n"
        "delivered is kept as a dead letter. docs/deliver.md describes all of it.",
    )
    deliver.add_argument(
        "--routes",
        metavar="FILE",
        help="who gets what, and by which way: TOML, see deploy/deliver.toml (default: "
        "ALARMDIGEST_DELIVER_ROUTES)",
    )
    deliver.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:9598",
        help="health and metrics over HTTP, or off (default: 127.0.0.1:9598)",
    )
    only = deliver.add_mutually_exclusive_group()
    only.add_argument(
        "--test",
        metavar="USER",
        help="send one message that says it is a test to the targets of this user, say what became "
        "of it at each, and end with 1 if one failed",
    )
    only.add_argument(
        "--dry-run",
        action="store_true",
        help="send nothing; show what waits, whom it would go to, and end",
    )
    only.add_argument(
        "--retry-dead",
        action="store_true",
        help="send what is kept as dead letters once more, and end with 1 if some failed again",
    )
    add_json(deliver)
    add_settings(
        deliver,
        OF_DELIVER,
        {
            "server": ITS_SERVER,
            "digest_subject": "digests of this subject are delivered",
            "digests_stream": "out of this stream",
            "query_subject": "the service is asked below it what else is active",
            "request_subject": "whom questions are for: the service that reads this",
            "group": "and is of this group",
            "no_create_streams": "do not make streams, buckets and the consumer that are missing: "
            "not ready instead",
            "stream_replicas": "on how many servers of a cluster what we make is kept",
            "no_service_api": NOT_ASKED,
        },
    )
