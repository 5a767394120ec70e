"""The commands that connect the service to other systems."""

from __future__ import annotations

import argparse

from alarmdigest.cli.argument_helpers import ITS_SERVER, add_json, add_settings, command
from alarmdigest.cli.option_groups import TO_CONNECT

OF_THE_BRIDGE = (
    *("event_subject", "rejected_subject", "events_stream", "rejected_stream", "js_domain"),
    *("no_create_streams", "stream_replicas"),
    *("connect_timeout", "ping_interval", "drain_timeout", *TO_CONNECT),
)


OF_DELIVER = (
    *("request_subject", "digest_subject", "query_subject", "digests_stream", "js_domain", "group"),
    *("no_create_streams", "stream_replicas"),
    *("connect_timeout", "ping_interval", "drain_timeout", *TO_CONNECT),
)


def add_connect_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add_bridge(commands)
    _add_deliver(commands)


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
        },
    )
