"""A real Prometheus and a real Alertmanager for a test: Debian's packages, everything in a second
instead of minutes."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from support.nats_server import HOST, free_port
from support.wait import eventually


def program(name: str) -> str:
    """Where it is. Skips the test where this machine has none; in CI, fails."""
    if (found := shutil.which(name)) is not None:
        return found
    message = f"{name} is not installed (Debian has a package of that name)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


class _Program:
    """One that is killed and started again on the same port and folder."""

    def __init__(self, name: str) -> None:
        self._path = program(name)
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{name}-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._path, *self.arguments()], stdout=log, stderr=log, cwd=self.folder
            )
        eventually(self._is_ready, timeout=20, what=f"an answer of {self._path}")

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()
        self._folder.cleanup()


class Alertmanager(_Program):
    """Sends to one webhook, and repeats a group every second as long as it changes."""

    def __init__(self, webhook: str, *, repeat: str = "1h", options: dict[str, Any] | None = None):
        super().__init__("prometheus-alertmanager")
        config = {
            "route": {
                "receiver": "bridge",
                "group_by": ["alertname"],
                "group_wait": "100ms",
                "group_interval": "1s",
                "repeat_interval": repeat,
            },
            "receivers": [
                {
                    "name": "bridge",
                    "webhook_configs": [{"url": webhook, "send_resolved": True, **(options or {})}],
                }
            ],
        }
        # JSON is YAML.
        (self.folder / "alertmanager.yml").write_text(json.dumps(config), "utf-8")

    def arguments(self) -> list[str]:
        return [
            "--config.file=alertmanager.yml",
            "--storage.path=data",
            f"--web.listen-address={HOST}:{self.port}",
            "--cluster.listen-address=",
        ]

    def post(self, *alerts: dict[str, Any]) -> None:
        """What Prometheus, or any other client, would tell it."""
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts",
            json.dumps(alerts).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()


class Prometheus(_Program):
    """Scrapes five times a second. Without ``rules``, a file, it watches one number, ``up_to_us``:
    an alert fires while it is 0."""

    def __init__(
        self, alertmanager: Alertmanager, target: Exporter, *, rules: Path | None = None
    ) -> None:
        super().__init__("prometheus")
        config = {
            # A scrape may take as long as its interval, and one that fails ends all alerts.
            "global": {"scrape_interval": "1s", "evaluation_interval": "200ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "ours", "static_configs": [{"targets": [f"{HOST}:{target.port}"]}]}
            ],
            "alerting": {
                "alertmanagers": [
                    {"static_configs": [{"targets": [f"{HOST}:{alertmanager.port}"]}]}
                ]
            },
        }
        rule = {
            "alert": "ServiceDown",
            "expr": "up_to_us == 0",
            "labels": {"severity": "critical", "team": "ada"},
            "annotations": {
                "summary": "{{ $labels.instance }} is down",
                "runbook_url": "https://wiki.example.com/down",
            },
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")
        ours = json.dumps({"groups": [{"name": "ours", "rules": [rule]}]})
        text = ours if rules is None else rules.read_text("utf-8")
        (self.folder / "rules.yml").write_text(text, "utf-8")

    def arguments(self) -> list[str]:
        return [
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={HOST}:{self.port}",
            "--rules.alert.resend-delay=1s",
        ]


class Exporter:
    """What Prometheus scrapes: ``value`` is what it finds, and the lines of ``more``."""

    def __init__(self) -> None:
        self.value = 1
        self.more = ""
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f"up_to_us {exporter.value}\n{exporter.more}".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
