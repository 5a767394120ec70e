"""A long run under a steady load, with kills and cuts; see docs/soak.md.

The service reads its stream through a proxy. At a steady pace one of the faults below happens;
once a second the service is asked how it is. In the end the model says, from what stands in the
input stream, what the output streams must hold: one digest lost, doubled or wrong fails the run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from nats.errors import Error as NatsPyError
from report import RESULTS, machine
from support.feeder import Feeder
from support.judge import ALARMS, DIGESTS, Expected, read_stream, stream_size
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.service import memory
from support.stream_service import StreamService, settle

from alarmdigest.settings import duration

SAMPLE_EVERY_S = 1.0
OUTAGE_S = 3.0
FAULTS = ("service killed", "server killed", "network cut", "network down", "network stalled")


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment; ``memory`` in bytes, ``lag`` in messages. None: it did not say."""

    at_s: float
    memory: int | None
    lag: float | None
    acknowledged: int


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class Latency:
    """From the request in its stream to its digest in the other, by the server's clock."""

    at_s: float
    seconds: float


class Soak:
    """One run. ``url`` of the server is used past the proxy for everything but the service."""

    def __init__(
        self, server: NatsServer, proxy: Proxy, service: StreamService, feeder: Feeder, seed: int
    ) -> None:
        self._server, self._proxy = server, proxy
        self._service, self._feeder = service, feeder
        self._dice = random.Random(seed)
        self._begun = time.monotonic()
        self.samples: list[Sample] = []
        self.faults: list[Fault] = []

    def play(self, seconds: float, fault_every_s: float) -> None:
        """Sample and break things for so long; afterwards all is whole again."""
        next_fault = fault_every_s
        while next_fault < seconds - fault_every_s / 2:
            self._watch_until(next_fault)
            self._break_something()
            next_fault += fault_every_s
        self._watch_until(seconds)

    def _watch_until(self, end: float) -> None:
        while (now := self._now()) < end:
            self._sample()
            time.sleep(max(0.0, min(now + SAMPLE_EVERY_S, end) - self._now()))

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _sample(self) -> None:
        bytes_held, lag = None, None
        if self._service.process.poll() is None:
            # It, or the server, starts or ends just now.
            with suppress(OSError, AssertionError, NatsPyError):
                bytes_held = memory(self._service)
                # Asked from outside: a service that is cut off does not know what it lacks.
                routed = self._service.metric("alarmdigest_stream_position")
                lag = stream_size(self._server.url, ALARMS) - routed
        self.samples.append(Sample(self._now(), bytes_held, lag, self._feeder.acknowledged))

    def _break_something(self) -> None:
        kind = FAULTS[len(self.faults) % len(FAULTS)]
        self.faults.append(Fault(self._now(), kind))
        if kind == "service killed":
            self._service.kill()
            self._service.start()
        elif kind == "server killed":
            self._server.kill()
            self._server.start()
        elif kind == "network cut":
            self._proxy.cut_after(self._dice.randrange(1, 50_000))
        elif kind == "network down":
            self._proxy.refuse()
            self._proxy.cut()
            self._watch_until(self._now() + OUTAGE_S)
            self._proxy.accept()
        else:
            self._proxy.stall()
            self._watch_until(self._now() + OUTAGE_S)
            self._proxy.resume()


def latencies(url: str, expected: Expected, begun_ns: int) -> list[Latency]:
    """Of every digest. To be had only after the verdict: then the n-th digest of a user is the
    answer to the n-th request that had one."""
    stored_at = {stored.sequence: stored.time_ns for stored in read_stream(url, ALARMS)}
    waiting = {
        user: iter([answer.sequence for answer in answers])
        for user, answers in expected.answers.items()
    }
    found = []
    for stored in read_stream(url, DIGESTS):
        asked_ns = stored_at[next(waiting[json.loads(stored.body)["UserID"]])]
        found.append(Latency((asked_ns - begun_ns) / 1e9, (stored.time_ns - asked_ns) / 1e9))
    return found


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def quiet(found: list[Latency], faults: list[Fault], within_s: float) -> list[Latency]:
    """Those whose request came at least so long behind the last fault and a moment before one."""
    times = [fault.at_s for fault in faults]
    return [one for one in found if not any(-1 < one.at_s - at < within_s for at in times)]


def table(soak: Soak, expected: Expected, found: list[Latency], fault_every_s: float) -> str:
    """The figures as rows of Markdown."""
    held = [sample.memory / 1e6 for sample in soak.samples if sample.memory is not None]
    lags = [sample.lag for sample in soak.samples if sample.lag is not None]
    calm = [one.seconds for one in quiet(found, soak.faults, min(20.0, fault_every_s * 0.6))]
    every = [one.seconds for one in found]
    kinds = {kind: sum(fault.kind == kind for fault in soak.faults) for kind in FAULTS}
    quarter = max(1, len(held) // 4)
    rows = {
        "duration": f"{soak.samples[-1].at_s / 60:.1f} min",
        "faults": ", ".join(f"{kind} {count}" for kind, count in kinds.items()),
        "messages in the stream": f"{soak.samples[-1].acknowledged:,} confirmed to publishers",
        "digests / refusals": f"{expected.digests:,} / {expected.refusals:,}",
        "lost, doubled, wrong, out of order": "0",
        "request to digest, away from faults": _spread(calm),
        "request to digest, all": _spread(every),
        "lag behind the stream": f"median {quantile(lags, 0.5):.0f}, most {max(lags):.0f} messages",
        "memory": f"first quarter at most {max(held[:quarter]):.1f} MB, "
        f"last quarter at most {max(held[-quarter:]):.1f} MB",
    }
    lines = ["| what | figure |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {figure} |" for name, figure in rows.items()]) + "\n"


def _spread(values: list[float]) -> str:
    shares = (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
    return ", ".join(f"{name} {1000 * quantile(values, share):.1f} ms" for name, share in shares)


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument(
        "--rate", type=float, default=300.0, help="messages a second, steadily (default: 300)"
    )
    parser.add_argument(
        "--fault-every", default="60s", metavar="TIME", help="one fault in so long (default: 60s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of traffic and faults (default: 1)")
    given = parser.parse_args()
    fault_every_s = duration(given.fault_every) / 1e9
    users = [f"user-{number}" for number in range(2000)]
    alarms = [f"alarm-{number}" for number in range(25)]
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        StreamService(proxy.url, "--checkpoint-interval", "1s", workers=12) as service,
        Feeder(server.url, seed=given.seed, rate=given.rate, users=users, alarms=alarms) as feeder,
    ):
        begun_ns = time.time_ns()
        soak = Soak(server, proxy, service, feeder, given.seed)
        soak.play(given.minutes * 60, fault_every_s)
        print("the time is over: reading the streams, asking the model", flush=True)
        try:
            expected = settle(server.url, service, feeder, timeout=120.0)
        except AssertionError as error:
            write_figures(soak, [])  # what led to it is worth a look
            print(f"NOT EXACT: {error}", file=sys.stderr)
            return 1
        found = latencies(server.url, expected, begun_ns)
    write_figures(soak, found)
    text = table(soak, expected, found, fault_every_s)
    (RESULTS / "soak.md").write_text(text, "utf-8")
    # Imported late: a run of an hour shall not have been in vain for want of a picture.
    from soak_plot import draw_soak

    draw_soak(soak.samples, soak.faults, found, RESULTS / "soak.svg")
    print("\n" + text + "\nwritten: soak.md, soak.json and soak.svg, in benchmarks/results/")
    return 0


def write_figures(soak: Soak, found: list[Latency]) -> None:
    RESULTS.mkdir(exist_ok=True)
    document = {
        "machine": machine(),
        "samples": [asdict(sample) for sample in soak.samples],
        "faults": [asdict(fault) for fault in soak.faults],
        "latencies": [(one.at_s, one.seconds) for one in found],
    }
    (RESULTS / "soak.json").write_text(json.dumps(document), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
