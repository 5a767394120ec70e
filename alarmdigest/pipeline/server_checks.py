"""Whether a server and its streams suit the settings: for the start, and for ``check-config``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamError, StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.permanent_errors import NO_PEERS, cannot_make
from alarmdigest.nats.server_versions import too_old
from alarmdigest.nats.stream_configs import (
    Limits,
    Role,
    StreamConfig,
    StreamConfigs,
    age_text,
    make_stream_configs,
)
from alarmdigest.nats.streams import Examined, ensure_stream, examine
from alarmdigest.replication.subjects import leader_subject
from alarmdigest.settings import (
    HEADER_ROOM_BYTES,
    MIN_SPLIT_BYTES,
    SPLIT_AUTO,
    Settings,
    SettingsError,
)

log = logging.getLogger(__name__)

GATHERING_S = 5.0


def stream_configs_of(settings: Settings) -> StreamConfigs:
    """The streams that these settings ask for."""
    return make_stream_configs(
        event_subject=settings.event_subject,
        request_subject=settings.request_subject,
        forget_subject=settings.forget_subject,
        digest_subject=settings.digest_subject,
        rejected_subject=settings.rejected_subject,
        alarms_stream=settings.events_stream,
        digests_stream=settings.digests_stream,
        rejected_stream=settings.rejected_stream,
        alarms=Limits(settings.events_max_age, settings.events_max_bytes),
        digests=Limits(settings.digests_max_age, settings.digests_max_bytes),
        rejected=Limits(settings.rejected_max_age, settings.rejected_max_bytes),
        replicas=settings.stream_replicas,
        domain=settings.js_domain,
        leader_subject=leader_subject(settings.group) if settings.group else "",
    )


def version_problem(connection: Connection, mode: str, *, asked_for: str) -> str:
    """Why a server of this version will not do for ``stream`` or ``core``; empty if it will.

    ``asked_for`` is what ``--mode`` says.
    """
    problem = too_old(str(connection.info.get("version", "")), mode)
    if problem and mode == "stream" and asked_for == "auto":
        problem += "; --mode core works there, without streams"
    return problem


def look_at_streams(jetstream: JetStream, settings: Settings) -> Examined:
    """All that is wrong or unwise about the streams that are there. Changes nothing."""
    wanted = stream_configs_of(settings)
    found = examine(jetstream, wanted, create=not settings.no_create_streams)
    for plan, usual in zip(wanted, stream_configs_of(Settings()), strict=True):
        if (info := found.infos.get(plan.role)) is not None:
            found.warnings += map(plan.for_its_domain, _unheeded(plan, usual, info))
    return found


def ready_streams(jetstream: JetStream, settings: Settings) -> dict[Role, StreamInfo]:
    """The three streams, those that were missing made. Warns of what is unwise about the others.

    Raises SettingsError with all that is wrong at once. Makes none while others are refused.
    """
    found = look_at_streams(jetstream, settings)
    if found.problems:
        raise SettingsError(*found.problems)
    problems = []
    deadline = time.monotonic() + GATHERING_S
    for plan in found.missing:
        try:
            found.infos[plan.role] = _made(jetstream, plan, settings, deadline)
        except (StreamConflict, StreamMissing) as error:
            problems.append(str(error))
    if problems:
        problems += _oversized(stream_configs_of(settings), found)
    if problems:
        raise SettingsError(*problems)
    for warning in found.warnings:
        log.warning("%s", warning)
    return found.infos


def _made(
    jetstream: JetStream, plan: StreamConfig, settings: Settings, deadline: float
) -> StreamInfo:
    """Raises as ``ensure_stream`` does."""
    while True:
        try:
            return ensure_stream(jetstream, plan, create=not settings.no_create_streams)
        except StreamConflict as error:
            # A cluster that has just begun may not have found all of its servers yet.
            cause = error.__cause__
            gathering = isinstance(cause, JetStreamError) and cause.err_code == NO_PEERS
            if not gathering or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _oversized(wanted: StreamConfigs, found: Examined) -> Iterator[str]:
    """What an earlier version of ours reserved for rejected messages, and others may need now."""
    info = found.infos.get("rejected")
    if info is not None and int(info.config.get("max_bytes") or 0) > wanted.rejected.max_bytes > 0:
        yield wanted.rejected.for_its_domain(
            f"stream {info.name} reserves {info.config['max_bytes']} bytes, more than it needs: "
            f"nats stream edit {info.name} --max-bytes={wanted.rejected.max_bytes}"
        )


def cannot_be_made(
    jetstream: JetStream, connection: Connection, missing: list[StreamConfig]
) -> list[str]:
    """What the server would say if these streams were made, as far as the account's limits tell."""
    if not missing:
        return []
    account = jetstream.request("INFO")
    streams, reserved = int(account.get("streams") or 0), int(account.get("reserved_storage") or 0)
    found = []
    for plan in missing:
        limits = _limits_for(account, plan.replicas)
        clustered = bool(connection.info.get("cluster"))
        errors = list(_refused(plan, limits, streams, reserved, clustered=clustered))
        found += [cannot_make(plan, error) for error in errors]
        if not errors:
            streams += 1
            reserved += max(0, plan.max_bytes) * plan.replicas
    return found


def _refused(
    plan: StreamConfig, limits: dict[str, Any], streams: int, reserved: int, *, clustered: bool
) -> Iterator[JetStreamError]:
    """The errors that nats-server answers with, as it words them."""
    if plan.replicas > 1 and not clustered:
        yield JetStreamError(500, 10074, "replicas > 1 not supported in non-clustered mode")
    if 0 < _limit(limits, "max_streams") <= streams:
        yield JetStreamError(400, 10027, "maximum number of streams reached")
    if limits.get("max_bytes_required") and plan.max_bytes <= 0:
        yield JetStreamError(400, 10113, "account requires a stream config to have max bytes set")
    if 0 < _limit(limits, "storage_max_stream_bytes") < plan.max_bytes:
        yield JetStreamError(400, 10122, "stream max bytes exceeds account limit max stream bytes")
    most = _limit(limits, "max_storage")
    if most >= 0 and reserved + max(1, plan.max_bytes) * plan.replicas > most:
        yield JetStreamError(500, 10047, "insufficient storage resources available")


def _limits_for(account: dict[str, Any], replicas: int) -> dict[str, Any]:
    """Those of the account, or of the tier that streams of so many replicas are in."""
    tier = (account.get("tiers") or {}).get(f"R{replicas}") or {}
    return dict(tier.get("limits") or account.get("limits") or {})


def _limit(limits: dict[str, Any], name: str) -> int:
    value = limits.get(name)
    return value if isinstance(value, int) else -1


def _shorter_window(plan: StreamConfig, info: StreamInfo) -> str:
    """JetStream wants the duplicate window to lie within the age."""
    if 0 < plan.max_age_ns < info.duplicate_window_ns:
        return f" --dupe-window={age_text(plan.max_age_ns)}"
    return ""


def _unheeded(plan: StreamConfig, usual: StreamConfig, info: StreamInfo) -> Iterator[str]:
    """Limits that were asked for, of a stream that was there already and has others."""
    age = int(info.config.get("max_age") or 0)
    if plan.max_age_ns not in (usual.max_age_ns, age):
        yield (
            f"stream {plan.name} was there already and has max_age {age_text(age)}, not what "
            f"{plan.limit_options}-age says: nats stream edit {plan.name} "
            f"--max-age={age_text(plan.max_age_ns)}{_shorter_window(plan, info)}"
        )
    size = int(info.config.get("max_bytes") or -1)
    if plan.max_bytes not in (usual.max_bytes, size):
        yield (
            f"stream {plan.name} was there already and has max_bytes {size}, not what "
            f"{plan.limit_options}-bytes says: nats stream edit {plan.name} "
            f"--max-bytes={plan.max_bytes}"
        )


# -- how much goes into one message ----------------------------------------------------------------


def content_settings(settings: Settings, split_bytes: int) -> dict[str, int]:
    """The settings that decide what digests hold, as a checkpoint keeps them."""
    return {
        "clock_skew": settings.clock_skew,
        "retention": settings.retention,
        "split_bytes": split_bytes,
        "publish_empty": int(settings.publish_empty),
    }


def split_bytes(settings: Settings, connection: Connection, digests: StreamInfo | None) -> int:
    """How large one part of a digest may be, without its headers. ``digests`` in stream mode.

    Raises SettingsError where that is too little, or less than was asked for.
    """
    room = connection.max_payload - HEADER_ROOM_BYTES
    whose = f"the server {connection.url} has max_payload {connection.max_payload}"
    remedy = "raise max_payload in its configuration"
    if digests is not None and 0 < digests.max_msg_size < connection.max_payload:
        room = digests.max_msg_size - HEADER_ROOM_BYTES
        whose = f"stream {digests.name} has max_msg_size {digests.max_msg_size}"
        remedy = f"nats stream edit {digests.name} --max-msg-size=-1"
    if room < MIN_SPLIT_BYTES:
        raise SettingsError(
            f"{whose}, which leaves {room} bytes besides the headers, and at least "
            f"{MIN_SPLIT_BYTES} are needed: {remedy}"
        )
    if settings.split_size == SPLIT_AUTO:
        return room
    if settings.split_size > room:
        raise SettingsError(
            f"--split-size {settings.split_size} is too large: {whose}, which leaves {room} bytes "
            f"besides the headers: say less, or {remedy}"
        )
    return settings.split_size
