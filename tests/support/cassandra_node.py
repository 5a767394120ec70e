"""A real Cassandra 5.0 for a test, from its Maven jars on Java 17: killed, stopped, started again.

The jars, some hundred of them, are fetched once with `mvn` and kept in the user's cache. Nodes
listen on 127.0.0.1 to 127.0.0.9; a test session takes ports of its own.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import yaml

from support.nats_server import free_port
from support.wait import eventually

VERSION = "5.0.6"
UP_WITHIN_S = 180.0
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>alarmdigest.tests</groupId><artifactId>cassandra</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"""
# What it reaches into, as its own jvm17-server.options open it.
EXPORTS = (
    *("java.base/jdk.internal.misc", "java.base/java.lang.ref", "java.sql/java.sql"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry"),
    *("java.management/com.sun.jmx.remote.security", "java.rmi/sun.rmi.server"),
    *("jdk.compiler/com.sun.tools.javac.file", "jdk.attach/sun.tools.attach"),
    "jdk.unsupported/sun.misc",
)
OPENS = (
    *("java.lang.module", "jdk.internal.loader", "jdk.internal.ref", "jdk.internal.reflect"),
    *("jdk.internal.math", "jdk.internal.module", "jdk.internal.util.jar", "sun.nio.ch"),
    *("java.io", "java.lang.reflect", "java.lang", "java.util", "java.nio"),
)


@cache
def jars() -> Path:
    """The folder of the jars. Skips the test where this machine cannot have them; in CI, fails."""
    lacking = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if not lacking and "17." not in _java_version():
        lacking = ["Java 17"]
    if lacking:
        message = f"Cassandra needs {' and '.join(lacking)}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_dir / "alarmdigest-ci" / f"cassandra-{VERSION}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pom.xml").write_text(POM.format(version=VERSION), "utf-8")
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
        (folder / "complete").touch()
    return folder / "lib"


def _java_version() -> str:
    told = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True)
    return told.stderr


class CassandraNode:
    """One node; with ``host`` and ``seed`` one of several. Its data stays over ``kill`` and
    ``start``; the end of the ``with`` block removes it.

    ``settings`` go into its cassandra.yaml; those that are None are left out there.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        seed: CassandraNode | None = None,
        heap: str = "1g",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.host = host
        self.port: int = seed.port if seed else free_port()
        self.storage_port: int = seed.storage_port if seed else free_port()
        self._seed = seed or self
        self._heap = heap
        self._settings = settings or {}
        self.folder = Path(tempfile.mkdtemp(prefix="alarmdigest-cassandra-"))
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._end)

    @property
    def commit_log(self) -> Path:
        """Its folder."""
        return self.folder / "data" / "commitlog"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def log(self) -> str:
        with suppress(FileNotFoundError):
            return (self.folder / "log").read_text("utf-8", "replace")
        return ""

    def __enter__(self) -> CassandraNode:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Returns once it takes requests."""
        assert self._process is None
        lib = jars()
        (self.folder / "cassandra.yaml").write_text(yaml.safe_dump(self._config()), "utf-8")
        agent = next(lib.glob("jamm-*.jar"))
        command = ["java", f"-javaagent:{agent}", f"-Xms{self._heap}", f"-Xmx{self._heap}"]
        command += ["-XX:+UseG1GC", "-Djdk.attach.allowAttachSelf=true"]
        command += ["-Dio.netty.tryReflectionSetAccessible=true", "-Djava.net.preferIPv4Stack=true"]
        # So long who joins tries to reach a seed. On a busy machine that takes more than seconds.
        delay = 0 if self._seed is self else 60_000
        command += [f"-Dcassandra.ring_delay_ms={delay}", "-Dcassandra-foreground=yes"]
        # Else a node waits for half a minute for others that it may not know.
        command += ["-Dcassandra.skip_wait_for_gossip_to_settle=0"]
        command += [f"-Dcassandra.config=file://{self.folder}/cassandra.yaml"]
        command += [f"-Dcassandra.storagedir={self.folder}/data"]
        for one in EXPORTS:
            command += ["--add-exports", f"{one}=ALL-UNNAMED"]
        for package in OPENS:
            command += ["--add-opens", f"java.base/{package}=ALL-UNNAMED"]
        command += ["--add-opens", "jdk.management/com.sun.management.internal=ALL-UNNAMED"]
        command += ["--add-opens", "jdk.compiler/com.sun.tools.javac=ALL-UNNAMED"]
        command += ["-cp", f"{lib}/*", "org.apache.cassandra.service.CassandraDaemon"]
        told = len(self.log)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        eventually(
            lambda: self._is_up(told), timeout=UP_WITHIN_S, interval=0.1, what="Cassandra to be up"
        )

    def _is_up(self, told: int) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            lines = [line[:300] for line in self.log[told:].splitlines() if "Exception" in line]
            raise AssertionError(f"Cassandra ended with {code}: {lines[-10:]}")
        return re.search("Starting listening for CQL clients", self.log[told:]) is not None

    def kill(self) -> None:
        """As a crash does: what is not in its commit log on the disk's side is lost."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def stop_for_a_while(self) -> None:
        """SIGSTOP: connections stay, nothing is answered, until ``go_on``."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self) -> None:
        if self._process is not None:
            self.go_on()
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _config(self) -> dict[str, Any]:
        data = self.folder / "data"
        config = {
            "cluster_name": "alarmdigest tests",
            "num_tokens": 1,
            # All join before there is a keyspace, so there is nothing to fetch, nor to wait for.
            "auto_bootstrap": False,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": f"{self._seed.host}:{self.storage_port}"}],
                }
            ],
            "listen_address": self.host,
            "rpc_address": self.host,
            "native_transport_port": self.port,
            "storage_port": self.storage_port,
            "commitlog_sync": "group",
            "commitlog_sync_group_window": "5ms",
            "concurrent_writes": 128,
            "data_file_directories": [str(data / "data")],
            "commitlog_directory": str(self.commit_log),
            "saved_caches_directory": str(data / "saved"),
            "hints_directory": str(data / "hints"),
            "cdc_raw_directory": str(data / "cdc"),
            "memtable_allocation_type": "heap_buffers",
            **self._settings,
        }
        return {name: value for name, value in config.items() if value is not None}
