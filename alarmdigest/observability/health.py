"""What is wrong with a service: with its threads, or with what it should do."""

from __future__ import annotations

from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.service_thread import BUSY_IS_TROUBLE_S


def liveness_failures(service: Service) -> list[str]:
    """Why the process should be replaced; empty when all threads are alive and beating."""
    found = []
    for thread in service.threads:
        if not thread.is_alive() and not service.draining:
            found.append(f"thread {thread.name} is not running")
        elif thread.stuck:
            found.append(f"thread {thread.name} is stuck")
    return found


def readiness_failures(service: Service) -> list[str]:
    """Why it does not do its work right now, though it may again; empty when ready."""
    found = liveness_failures(service)
    if service.draining:
        listens = service.listener is not None and service.listener.consuming.is_set()
        found.append("draining" if listens else "draining, not subscribed any more")
    return [*found, *degradations(service)]


def _reads_up_to_the_end(service: Service) -> list[str]:
    """Of a replica: who is far behind could not lead at once. One whose list is full waits for the
    leader, and could."""
    listener, publisher = service.listener, service.publisher
    if service.replica is None or listener is None or publisher is None:
        return []
    if listener.near_end or publisher.window.full or not listener.consuming.is_set():
        return []
    behind = listener.at_least_behind
    return [f"catching up: {behind} input messages behind" if behind else "catching up"]


def degradations(service: Service) -> list[str]:
    """What holds up the work."""
    if service.restoring_snapshot:
        return ["the state is restored from a snapshot, or looked for in them"]
    if not service.mode:
        return [f"not connected to NATS yet: {service.reconnectors.startup.last_error}"]
    found = []
    if service.listener is None or not (service.draining or service.listener.consuming.is_set()):
        found.append(f"not subscribed to NATS: {service.reconnectors.listener.last_error}")
    elif service.listener.dropping:
        found.append("workers lag behind: messages are dropped")
    blocked = None if service.publisher is None else service.publisher.blocked_reason
    if blocked is not None:
        found.append(f"digests cannot be published: {blocked}")
    connected = service.publisher is not None and service.publisher.ready.is_set()
    last_error = service.reconnectors.publisher.last_error
    if not connected and last_error != blocked:
        found.append(f"the publisher has no connection: {last_error}")
    if service.replica is not None and service.replica.exchange.diverged:
        found.append(f"diverged: {service.replica.exchange.diverged}")
    found += _reads_up_to_the_end(service)
    if service.replica is not None and service.replica.missed:
        remedy = (
            "stop this replica, empty its data directory and start it, to go on from a snapshot of "
            "another one"
        )
        if service.settings.store == "cassandra":
            remedy = "start this replica again, to go on from what the leader has stored"
        found.append(f"{service.replica.missed}: {remedy}")
    if service.stream_watcher is not None:
        found += service.stream_watcher.degradations
    if service.checkpointer is not None and service.checkpointer.failing_because is not None:
        found.append(f"no checkpoint can be written: {service.checkpointer.failing_because}")
    elif service.checkpointer is not None and service.checkpointer.store.trouble:
        found.append(f"checkpoints wait: {service.checkpointer.store.trouble}")
    listens = service.listener is not None and service.listener.consuming.is_set()
    if service.draining and listens and service.mode == "core":
        found.append("waiting for the server to say that nothing more is on its way to us")
    found += [
        f"thread {thread.name} has been {thread.busy_with} for {thread.busy_for_s:.0f} s"
        for thread in service.threads
        if thread.busy_for_s > BUSY_IS_TROUBLE_S
    ]
    if service.listener is not None and service.listener.catching_up and not service.draining:
        found.append(f"catching up: {service.listener.at_least_behind} messages behind")
    return found
