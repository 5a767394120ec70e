"""What is shipped for others to run us: the image, compose, systemd and Helm keep their promises.

No daemon, cluster or init system is at hand in a test: the files are read, and what they name is
looked up in the program. Where systemd-analyze or helm is installed, it has its say as well.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.nats_server import HOST, NatsServer
from support.paths import ROOT
from support.service import ServiceProcess

from alarmdigest import __version__
from alarmdigest.cli.main import main
from alarmdigest.connect.bridge.rules import Rules, read_rules
from alarmdigest.connect.deliver.routes_file import read_routes
from alarmdigest.connect.toml_tables import read_document
from alarmdigest.nats.embedded.discovery import choose_server
from alarmdigest.settings import DEFAULT_HTTP, Settings, duration
from alarmdigest.store.cassandra.schema import keyspace_cql

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "alarmdigest"
PORT = DEFAULT_HTTP.port
DATA = "/var/lib/alarmdigest"
VARIABLES = {f"ALARMDIGEST_{item.name.upper()}" for item in fields(Settings)}
DRAIN_S = Settings().drain_timeout.seconds


def options_of_run(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return options_of("run", capsys)


def options_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    return set(re.findall(r"--[a-z-]+", help_of(command, capsys)))


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return capsys.readouterr().out


# -- the image -------------------------------------------------------------------------------------


def instructions() -> list[list[tuple[str, str]]]:
    """The stages of the Dockerfile, each as (instruction, its text on one line)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    stages: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line:
            name, _, rest = line.partition(" ")
            if name == "FROM":
                stages.append([])
            stages[-1].append((name, rest))
    return stages


def only(stage: list[tuple[str, str]], name: str) -> str:
    [text] = [text for each, text in stage if each == name]
    return text


def test_the_image_runs_as_somebody_without_rights_and_holds_no_compiler() -> None:
    build, final = instructions()
    assert "gcc" in " ".join(text for name, text in build if name == "RUN")
    assert not re.search(
        r"gcc|apt-get|pip", " ".join(text for name, text in final if name == "RUN")
    )
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only(final, "USER"))
    assert final.index(("USER", only(final, "USER"))) > max(
        place for place, (name, _) in enumerate(final) if name == "RUN"
    )


def test_the_image_is_built_from_fixed_versions_of_a_slim_python() -> None:
    bases = [stage[0][1].split()[0] for stage in instructions()]
    assert len(set(bases)) == 1, "what is built must run on the same Python"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases[0])


def test_the_image_has_every_extra_that_a_command_needs() -> None:
    build, _ = instructions()
    [installed] = re.findall(r"'\.\[(.*)\]'", " ".join(text for _name, text in build))
    extras = read_document(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    assert set(installed.split(",")) == {name for name, some in extras.items() if some} - {
        *("test", "bench")
    }


def test_the_image_says_how_it_is_stopped_looked_after_and_where_its_data_is() -> None:
    _, final = instructions()
    assert only(final, "STOPSIGNAL") == "SIGTERM"
    assert only(final, "VOLUME") == DATA
    assert only(final, "EXPOSE") == str(PORT)
    health = only(final, "HEALTHCHECK")
    assert f"http://127.0.0.1:{PORT}/healthz" in health
    assert json.loads(only(final, "ENTRYPOINT")) == ["alarmdigest"]
    named = dict(pair.split("=", 1) for pair in shlex.split(only(final, "ENV")))
    ours = {name: value for name, value in named.items() if name.startswith("ALARMDIGEST_")}
    assert ours == {"ALARMDIGEST_DATA_DIR": DATA, "ALARMDIGEST_HTTP": f"0.0.0.0:{PORT}"}
    assert ours.keys() <= VARIABLES


def test_the_health_check_of_the_image_tells_a_service_from_none() -> None:
    """The command itself, with another port."""
    _, final = instructions()
    [command] = re.findall(r"CMD (\[.*\])$", only(final, "HEALTHCHECK"))
    program, *arguments = json.loads(command)
    assert program == "python"

    def check(port: str) -> int:
        words = [each.replace(f":{PORT}/", f":{port}/") for each in arguments]
        return subprocess.run([sys.executable, *words], stderr=subprocess.DEVNULL).returncode

    with NatsServer() as server, ServiceProcess(server.url) as service:
        port = service.wait_for_log(r"on=http://127.0.0.1:(\d+)")[1]
        assert check(port) == 0
        service.stop()
        assert check(port) == 1


def test_all_that_the_image_copies_is_let_through_by_dockerignore() -> None:
    build, _ = instructions()
    sources = {word for name, text in build if name == "COPY" for word in text.split()[:-1]}
    let_through = {
        line[1:].partition("/")[0]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)


# -- compose ---------------------------------------------------------------------------------------


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found = yaml.safe_load((ROOT / name).read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def test_compose_runs_a_server_with_jetstream_and_one_service_on_volumes() -> None:
    document = compose()
    nats, ours = document["services"]["nats"], document["services"]["alarmdigest"]
    assert re.fullmatch(r"nats:\d+\.\d+-\w+", nats["image"])
    assert ours["image"] == f"alarmdigest:{__version__}"
    assert f"alarmdigest:{DATA}" in ours["volumes"]
    assert "nats:/data" in nats["volumes"]
    data = {"nats", "alarmdigest", "cassandra", "prometheus", "alertmanager"}
    assert set(document["volumes"]) == data
    assert {name for name, one in document["services"].items() if "profiles" not in one} == {
        *("nats", "alarmdigest")
    }
    assert profile("bridge") == {"bridge"}
    assert profile("cassandra") == {"cassandra", "cassandra-keyspace"}
    cql = document["services"]["cassandra-keyspace"]["command"][-1]
    assert cql == keyspace_cql("alarmdigest", "datacenter1", 1)
    assert ours["environment"]["NATS_URL"] == "nats://nats:4222"
    assert ours["depends_on"]["nats"]["condition"] == "service_healthy"
    assert duration(ours["stop_grace_period"]) > DRAIN_S * 10**9
    assert "deploy" not in ours, "one instance only"


def profile(name: str) -> set[str]:
    services = compose()["services"].items()
    return {service for service, one in services if name in one.get("profiles", ())}


@pytest.mark.parametrize("name", ["bridge", "scheduler", "deliver"])
def test_compose_runs_what_stands_beside_the_service_where_it_is_asked_for(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service = compose()["services"][name]
    assert service["image"] == f"alarmdigest:{__version__}"
    command, *rest = service["command"]
    assert command == name
    text = help_of(name, capsys)
    assert {word for word in rest if word.startswith("-")} <= set(re.findall(r"--[a-z-]+", text))
    port = rest[rest.index("--listen") + 1].rpartition(":")[2]
    assert service["ports"] == [f"{HOST}:{port}:{port}"]
    assert f"{HOST}:{port}" in text, "it is not the port by default"
    assert f":{port}/healthz" in service["healthcheck"]["test"][-1]
    assert service["environment"]["NATS_URL"] == "nats://nats:4222"
    assert duration(service["stop_grace_period"]) > DRAIN_S * 10**9


def test_compose_gives_them_their_files() -> None:
    services = compose()["services"]
    mounted = {
        name: dict(reversed(one.split(":")[:2]) for one in services[name].get("volumes", ()))
        for name in ("bridge", "deliver", "schedules", "prometheus", "alertmanager", "sample")
    }
    for name, files in mounted.items():
        named = [word.rpartition("=")[2] for word in services[name]["command"]]
        named += services[name].get("entrypoint", ())
        for place, source in files.items():
            if source.startswith("./"):
                assert (ROOT / source).exists()
                assert place in named or source == "./deploy/mail/rules.yml"
    assert mounted["bridge"] == {"/etc/alarmdigest/bridge.toml": "./deploy/bridge.toml"}
    # Beside the file that names it.
    assert "/etc/prometheus/rules.yml" in mounted["prometheus"]


def test_compose_gives_nobody_more_rights_than_needed() -> None:
    others = {"nats", "cassandra", "cassandra-keyspace"}  # as their images are
    for name in compose()["services"].keys() - others:
        service = compose()["services"][name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_with_replicas_runs_three_on_three_servers() -> None:
    document = compose("compose.replicas.yaml")
    services = document["services"]
    servers = [name for name in services if name.startswith("nats-")]
    replicas = [name for name in services if name.startswith("alarmdigest-")]
    assert len(servers) == len(replicas) == 3
    routes = (DEPLOY / "nats-cluster.conf").read_text("utf-8")
    for name in servers:
        assert services[name]["environment"] == {"SERVER_NAME": name}
        assert f"{name}:/data" in services[name]["volumes"]
        assert f"nats://{name}:6222" in routes
    for name in replicas:
        ours = services[name]
        assert ours["hostname"] == name
        assert "--group" in ours["command"]
        assert f"{name}:{DATA}" in ours["volumes"]
        assert set(ours["depends_on"]) == set(servers)
        urls = ours["environment"]["NATS_URL"].split(",")
        assert sorted(urls) == [f"nats://{server}:4222" for server in sorted(servers)]
        assert duration(ours["stop_grace_period"]) > DRAIN_S * 10**9
    assert set(document["volumes"]) == {*servers, *replicas}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.replicas.yaml"])
def test_compose_publishes_on_the_loopback_only(name: str) -> None:
    services = compose(name)["services"].values()
    ports = [port for service in services for port in service.get("ports", ())]
    assert all(port.startswith(f"{HOST}:") for port in ports)
    assert len({port.rpartition(":")[0] for port in ports}) == len(ports)


@pytest.mark.parametrize(
    ("name", "service"),
    [("compose.yaml", "alarmdigest"), ("compose.replicas.yaml", "alarmdigest-b")],
)
def test_the_options_in_compose_are_there(
    name: str, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = compose(name)["services"][service]["command"]
    assert command == "run"
    given = {word for word in rest if word.startswith("-")}
    assert given <= options_of_run(capsys)


@pytest.mark.parametrize("name", ["nats-server.conf", "nats-cluster.conf"])
def test_a_real_server_takes_the_configuration_of_compose(name: str) -> None:
    done = subprocess.run(
        [choose_server(None).path, "-t", "-c", DEPLOY / name],
        capture_output=True,
        text=True,
        env={**os.environ, "SERVER_NAME": "nats-a"},
    )
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stderr + done.stdout


# -- systemd ---------------------------------------------------------------------------------------

UNIT = (DEPLOY / "alarmdigest.service").read_text("utf-8")


def unit(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def test_the_unit_starts_the_service_with_options_that_are_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    [start] = unit("ExecStart")
    program, command, *rest = shlex.split(start)
    assert (Path(program).name, command) == ("alarmdigest", "run")
    assert {word for word in rest if word.startswith("-")} <= options_of_run(capsys)
    assert "--data-dir ${STATE_DIRECTORY}" in start


def test_the_unit_gives_it_time_to_drain_and_does_not_repeat_what_cannot_work() -> None:
    assert unit("Type") == ["notify"]
    assert duration(unit("TimeoutStopSec")[0]) > DRAIN_S * 10**9
    # A usage error or an unusable store is not tried again and again; a crash is.
    assert unit("RestartPreventExitStatus") == ["2 4"]


@pytest.mark.parametrize("name", ["bridge", "deliver", "scheduler"])
def test_the_unit_of_another_process_is_as_tight_as_that_of_the_service(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = (DEPLOY / f"alarmdigest-{name}.service").read_text("utf-8")
    [start] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    _program, command, *rest = shlex.split(start)
    assert command == name
    assert {word for word in rest if word.startswith("-")} <= options_of(name, capsys)
    only_the_service = {"StateDirectory=alarmdigest", "StateDirectoryMode=0700"}
    after = UNIT[UNIT.index("DynamicUser") :].splitlines()
    assert set(after) - only_the_service <= set(unit.splitlines())


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    copy = tmp_path / "alarmdigest.service"
    # It looks whether the program is there, which it is only where it was installed.
    copy.write_text(UNIT.replace("/opt/alarmdigest/bin/alarmdigest", sys.executable), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# -- Helm ------------------------------------------------------------------------------------------


def skeleton(name: str) -> Any:
    """A template without its actions: what stands in it literally, as YAML.

    Lines that are nothing but an action go, and an action within a line becomes a word, so both
    branches of an ``if`` are in it and a block that is included is not.
    """
    text = (CHART / "templates" / name).read_text("utf-8")
    text = re.sub(r"^\s*\{\{-? .*? ?\}\}\n", "", text, flags=re.MULTILINE)
    return yaml.safe_load(re.sub(r"\{\{.*?\}\}", "x", text))


def skeletons(name: str) -> list[Any]:
    """The documents of a template, as ``skeleton`` makes them."""
    text = (CHART / "templates" / name).read_text("utf-8")
    text = re.sub(r"^\s*\{\{-? .*? ?\}\}\n", "", text, flags=re.MULTILINE)
    return list(yaml.safe_load_all(re.sub(r"\{\{.*?\}\}", "x", text)))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bridge", ["Deployment", "ConfigMap", "Service"]),
        ("scheduler", ["Deployment"]),
        ("deliver", ["Deployment", "ConfigMap"]),
    ],
)
def test_what_stands_beside_the_service_in_the_chart_has_probes_and_no_rights(
    name: str, kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = skeletons(f"{name}.yaml")
    assert [one["kind"] for one in documents] == kinds
    pod = documents[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    command, *rest = container["args"]
    assert command == name
    assert {word for word in rest if word.startswith("-")} <= options_of(name, capsys)
    assert f"0.0.0.0:{container['ports'][0]['containerPort']}" in rest
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # Two that take turns ask the service, which answers as one of its group.
    in_group = "ALARMDIGEST_GROUP" in {one["name"] for one in container["env"] or ()}
    assert in_group == (name != "bridge")
    # What all of them share.
    shared = (CHART / "templates" / "_nats.tpl").read_text("utf-8")
    for variable in ("NATS_URL", "NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY"):
        assert f"- name: {variable}\n" in shared


def test_the_rules_of_the_chart_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(values()["bridge"]["rules"], "utf-8")
    assert read_rules(file).user == Rules().user


def test_the_routes_of_the_chart_can_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "mail-url"
    secret.write_text("mailtos://me:secret@mail.example.com/?to={UserID}@example.com", "utf-8")
    file = tmp_path / "deliver.toml"
    text = values()["deliver"]["routes"]
    file.write_text(text.replace("/etc/deliver/secret/mail-url", str(secret)), "utf-8")
    [way] = read_routes(file).ways("ada")
    assert not way.problem
    assert str(secret) in file.read_text("utf-8"), "the secret is not where the chart mounts it"
    mounts = skeletons("deliver.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
    assert "/etc/deliver/secret" in {one["mountPath"] for one in mounts["volumeMounts"]}


def check_stateful_set(document: dict[str, Any]) -> None:
    spec = document["spec"]
    assert document["kind"] == "StatefulSet"
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [port["containerPort"] for port in container["ports"]] == [PORT]
    for probe, path in {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    settings = {one["name"]: one.get("value") for one in container["env"]}
    assert settings["ALARMDIGEST_HTTP"] == f"0.0.0.0:{PORT}"
    assert settings["ALARMDIGEST_DATA_DIR"] == DATA
    assert {"name": "data", "mountPath": DATA} in container["volumeMounts"]
    [claim] = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_the_stateful_set_has_probes_and_no_rights() -> None:
    check_stateful_set(skeleton("statefulset.yaml"))


def test_replicas_are_named_after_their_pods_and_kept_apart() -> None:
    document = skeleton("statefulset.yaml")["spec"]
    assert document["podManagementPolicy"] == "Parallel"
    pod = document["template"]["spec"]
    settings = {one["name"]: one for one in pod["containers"][0]["env"]}
    name = settings["ALARMDIGEST_REPLICA_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert name == "metadata.name"
    assert "podAntiAffinity" in pod["affinity"]
    assert skeleton("poddisruptionbudget.yaml")["spec"]["maxUnavailable"] == 1


def test_the_user_of_the_chart_is_that_of_the_image() -> None:
    _, final = instructions()
    user, group = map(int, only(final, "USER").split(":"))
    context = skeleton("statefulset.yaml")["spec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (user, group)
    assert context["fsGroup"] == group


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__


def values() -> dict[str, Any]:
    found = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def schema() -> dict[str, Any]:
    found = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_default_values_fit_their_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    jsonschema.validate(values(), schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nats.url", "nats://user:password@nats:4222"),
        ("settings", {"LOG_LEVEL": "debug"}),
        ("settings", {"ALARMDIGEST_DATA_DIR": "/tmp"}),
        ("extraEnv", [{"name": "ALARMDIGEST_HTTP", "value": "off"}]),
        ("settings", {"ALARMDIGEST_GROUP": "mail"}),
        ("replicas", 2),  # of no group
        ("scheduler.replicas", "2"),
        ("deliver.routes", '[targets.mail]\nurl = "mailtos://me:password@mail.example.com"'),
        ("group", "a b"),
    ],
)
def test_the_schema_refuses_what_must_not_be(path: str, value: object) -> None:
    document = values()
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema())


def test_every_value_is_used_and_every_value_that_is_used_is_there() -> None:
    text = "".join(path.read_text("utf-8") for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", text))
    there = set()
    for name, value in values().items():
        nested = any(one.startswith(f"{name}.") for one in used)
        there |= {f"{name}.{inner}" for inner in value} if nested else {name}
    assert {name.removesuffix(".name").removesuffix(".key") for name in used} == there


def test_helm_takes_the_chart(tmp_path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm here")

    def run(*arguments: str | Path) -> str:
        done = subprocess.run([helm, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("lint", "--strict", CHART)
    render = ("template", "try", CHART, "--kube-version", "1.30.0")
    plain = {one["kind"]: one for one in yaml.safe_load_all(run(*render))}
    assert plain.keys() == {"StatefulSet", "Service"}
    assert plain["StatefulSet"]["spec"]["replicas"] == 1
    check_stateful_set(plain["StatefulSet"])
    more = tmp_path / "values.yaml"
    more.write_text(
        "nats: {urlSecret: {name: where}, credsSecret: {name: who}, caSecret: {name: ours},\n"
        "  certSecret: {name: me}}\n"
        "settings: {ALARMDIGEST_WORKERS: '24'}\n"
        "extraEnv: [{name: TZ, value: UTC}]\n"
        "extraVolumes: [{name: more, emptyDir: {}}]\n"
        "extraVolumeMounts: [{name: more, mountPath: /more}]\n"
        "serviceMonitor: {enabled: true, labels: {release: prometheus}}\n"
        "prometheusRule: {enabled: true, labels: {release: prometheus}}\n"
        "dashboard: {enabled: true}\n"
        "group: mail\n"
        "replicas: 3\n",
        "utf-8",
    )
    rendered = yaml.safe_load_all(run(*render, "--values", more))
    full = {one["kind"]: one for one in rendered}
    assert full.keys() == plain.keys() | {
        *("ServiceMonitor", "PrometheusRule", "ConfigMap", "PodDisruptionBudget")
    }
    check_stateful_set(full["StatefulSet"])
    assert full["StatefulSet"]["spec"]["replicas"] == 3
    without = run(*render, "--set", "persistence.enabled=false,group=mail")
    [stateless] = [one for one in yaml.safe_load_all(without) if one["kind"] == "StatefulSet"]
    assert "volumeClaimTemplates" not in stateless["spec"]
    assert stateless["spec"]["template"]["spec"]["volumes"][0]["emptyDir"] == {"sizeLimit": "8Gi"}
    elsewhere = run(*render, "--set", "cassandra.hosts={c1,c2:9043},cassandra.user=me")
    [moved] = [one for one in yaml.safe_load_all(elsewhere) if one["kind"] == "StatefulSet"]
    [container] = moved["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["ALARMDIGEST_STORE"] == "cassandra"
    assert variables["ALARMDIGEST_CASSANDRA"] == "c1,c2:9043"
    pod = full["StatefulSet"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = {one["name"]: one for one in container["env"]}
    assert settings["NATS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "where", "key": "url"}
    assert settings["ALARMDIGEST_WORKERS"]["value"] == "24"
    assert settings["TZ"]["value"] == "UTC"
    # Each file that a variable names is mounted, and from the secret that was given for it.
    files, more_files = pod["volumes"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert more_files == {"name": "more", "emptyDir": {}}
    assert mounts["more"] == "/more"
    mounted = {
        f"{mounts[files['name']]}/{item['path']}": source["secret"]["name"]
        for source in files["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert {
        name: mounted[settings[name]["value"]]
        for name in ("NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY")
    } == {"NATS_CREDS": "who", "NATS_CA": "ours", "NATS_CERT": "me", "NATS_KEY": "me"}
    beside = ("--set", "bridge.enabled=true,scheduler.enabled=true,deliver.enabled=true,group=mail")
    named = {
        (one["kind"], one["metadata"]["name"].removeprefix("try-alarmdigest-")): one
        for one in yaml.safe_load_all(run(*render, *beside))
    }
    for name in ("bridge", "scheduler", "deliver"):
        assert named["Deployment", name]["spec"]["replicas"] == 2
    assert named["ConfigMap", "deliver"]["data"]["deliver.toml"] == values()["deliver"]["routes"]
    hidden = run(*render, *beside, "--set", "deliver.routesSecret.name=routes,deliver.secret=urls")
    [deliver] = [
        one["spec"]["template"]["spec"]
        for one in yaml.safe_load_all(hidden)
        if one["metadata"]["name"].endswith("-deliver")
    ]
    sources = {one["name"]: one.get("secret", {}).get("secretName") for one in deliver["volumes"]}
    assert sources == {"routes": "routes", "secret": "urls"}
    [container] = deliver["containers"]
    assert {"name": "ALARMDIGEST_GROUP", "value": "mail"} in container["env"]
    # What the operator and Grafana are given is what is shipped beside the chart.
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text("utf-8"))
    assert full["PrometheusRule"]["spec"] == rules
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
    assert json.loads(full["ConfigMap"]["data"]["alarmdigest.json"]) == dashboard
    assert full["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_chart_brings_the_rules_and_the_dashboard_themselves() -> None:
    """Helm reads nothing outside of a chart, and follows links."""
    for name in ("prometheus-alerts.yml", "grafana-dashboard.json"):
        assert (CHART / "files" / name).resolve() == (DEPLOY / name).resolve()
        template = "".join(path.read_text("utf-8") for path in (CHART / "templates").iterdir())
        assert f'"files/{name}"' in template
