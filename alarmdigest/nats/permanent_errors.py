"""JetStream's errors: which are transient, and which are permanent until somebody acts.

The numbers are nats-server's (errors.json). An error that is in neither list is judged by its code,
which is like one of HTTP: 400 and 404 are permanent; 408, 429, 500 and 503 are transient.
"""

from __future__ import annotations

from collections.abc import Mapping

from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.stream_configs import StreamConfig

# Permanent although their code is 500 or 503, or with a remedy that we know: err_code -> remedy.
# {limits} is how the options for the limits of this stream begin.
SMALLER = (
    "reserve less for it ({limits}-bytes SIZE), or less for the streams that are there (nats "
    "stream ls; nats stream edit NAME --max-bytes SIZE), or raise the limit"
)
REMEDIES: Mapping[int, str] = {
    10002: SMALLER,  # resource limits exceeded for account
    10027: "raise the account's max_streams, or delete a stream that nobody needs (nats stream ls)",
    10028: SMALLER,  # insufficient memory resources
    10036: "use another server, or make the stream yourself and say --no-create-streams",
    10047: SMALLER,  # insufficient storage resources
    10052: "make the stream yourself (docs/streams.md has the commands)",
    10074: "say --stream-replicas 1, or connect to a cluster",
    10113: "say how much the stream may hold: {limits}-bytes SIZE",
    10120: "give the account a limit for streams of {replicas} replicas, or say another "
    "--stream-replicas",
    10122: "let it hold less ({limits}-bytes SIZE), or raise the account's max_stream_bytes",
}
NO_PEERS = 10005
TOO_FEW_SERVERS = (
    "start more servers, or say a smaller --stream-replicas; a cluster needs one server for each"
)
PERMANENT_CODES = (400, 404)
# Transient although their code is 400 or 404: a move, an election, a message in flight.
TRANSIENT = frozenset({10014, 10037, 10040, 10043, 10044, 10059, 10123, 10124, 10129, 10202, 10226})


def is_permanent(error: JetStreamError) -> bool:
    """True when trying again is useless until somebody has changed something."""
    if error.err_code == NO_PEERS:
        # In a cluster with enough servers one may be down for a moment.
        return "offline" not in error.description
    if error.err_code in REMEDIES:
        return True
    return error.code in PERMANENT_CODES and error.err_code not in TRANSIENT


def cannot_make(plan: StreamConfig, error: JetStreamError) -> str:
    """Why the server will never make this stream, and what to do; empty if it may later."""
    if not is_permanent(error):
        return ""
    remedy = TOO_FEW_SERVERS if error.err_code == NO_PEERS else REMEDIES.get(error.err_code, "")
    asked = f"max_bytes {plan.max_bytes}" if plan.max_bytes > 0 else "no max_bytes"
    said = f"{error.description} (error {error.err_code or error.code})"
    told = plan.for_its_domain(remedy.format(limits=plan.limit_options, replicas=plan.replicas))
    what = f"the server does not make stream {plan.name} ({asked}, {plan.replicas} replicas)"
    return f"{what}: {said}" + (f": {told}" if told else "")
