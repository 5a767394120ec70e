"""``alarmdigest snapshot``: made by hand, listed, and gone on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support.command import run_command
from support.feeder import Feeder
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_service import StreamService
from support.wait import eventually


def test_one_made_beside_a_running_service_is_listed_and_started_from() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=41) as feeder,
    ):
        here = ("--server", server.url, "--data-dir", str(service.data_dir))
        feeder.wait_for(300)
        eventually(
            lambda: service.metric("alarmdigest_checkpoints_total") >= 1, what="a checkpoint"
        )
        made = run_command("snapshot", *here, "--json")
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        assert told["position"] >= 1
        listed = json.loads(run_command("snapshot", "--list", *here, "--json").stdout)
        assert [one["name"] for one in listed["snapshots"]] == [told["name"]]
        assert told["name"] in run_command("snapshot", "--list", *here).stdout
        feeder.finish()
        assert service.stop() == 0
        assert not list(Path(service.data_dir).glob("snapshot*"))
        shutil.rmtree(service.data_dir)
        service.change("--snapshots", "--snapshot-interval", "1h")
        service.start()
        service.wait_for_log(rf"restored the state from a snapshot:.* position={told['position']}")


def test_without_a_checkpoint_or_a_bucket_it_says_so() -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode="stream") as service:
        service.kill()
        here = ("--server", server.url, "--data-dir", str(service.data_dir))
        listed = run_command("snapshot", "--list", *here)
        assert (listed.returncode, listed.stdout) == (0, "no snapshots\n")
        made = run_command("snapshot", *here)
        assert (made.returncode, made.stderr) == (1, "alarmdigest: there is no checkpoint yet\n")


def test_a_store_of_core_mode_has_none() -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode="core") as service:
        assert service.stop() == 0
        made = run_command("snapshot", "--server", server.url, "--data-dir", str(service.data_dir))
        assert made.returncode == 2
        assert "core mode" in made.stderr
