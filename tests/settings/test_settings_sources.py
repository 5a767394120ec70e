"""Where settings come from: options, variables, the settings file, contexts; and who wins."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import run_command
from support.credentials import private

from alarmdigest.cli.main import main
from alarmdigest.settings import ResolvedSettings, Settings, SettingsError, read_settings, resolve
from alarmdigest.settings.resolve import merge_by_precedence
from alarmdigest.settings.sources import Given, Level


def from_file(
    text: str, tmp_path: Path, environment: Mapping[str, str] | None = None
) -> ResolvedSettings:
    file = private(tmp_path / "settings.toml", text)
    return read_settings({"config": str(file)}, environment or {})


def context(tmp_path: Path, name: str = "ops", **keys: Any) -> dict[str, str]:
    """Write a context of the nats tool; the environment in which it is found."""
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True, exist_ok=True)
    private(folder / f"{name}.json", json.dumps(keys))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


# -- the settings file -----------------------------------------------------------------------------


def test_a_file_has_the_options_as_keys_with_dashes_or_underlines(tmp_path: Path) -> None:
    text = """
# a comment
log-level = "debug"
workers = 3
publish_empty = true
server = ["nats://a:1", "b:2"]
start = 2026-01-31T12:00:00Z
"""
    read = from_file(text, tmp_path)
    assert (read.settings.log_level, read.settings.workers) == ("debug", 3)
    assert read.settings.publish_empty
    assert read.settings.server == ("nats://a:1", "nats://b:2")
    assert read.settings.start == 1_769_860_800 * 10**9
    assert read.given["workers"].origin == f"{tmp_path}/settings.toml:4"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_file_is_named_by_an_option_or_a_variable(tmp_path: Path, by: str) -> None:
    file = private(tmp_path / "settings.toml", "workers = 3")
    option = {"config": str(file)} if by == "option" else {}
    variable = {"ALARMDIGEST_CONFIG": str(file)} if by == "variable" else {}
    assert read_settings(option, variable).settings.workers == 3


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("mode = 'core'\n\nworker = 3", 3, "there is no setting 'worker'; did you mean 'workers'?"),
        ("log-levle = 'debug'", 1, "there is no setting 'log-levle'; did you mean 'log_level'?"),
        ("zzz = 1", 1, "there is no setting 'zzz'"),
        ("\n[x]\nserver = 'a'", 2, "there is no setting 'x'"),
        ("x.server = 'a'", 1, "there is no setting 'x'"),
        ("mode = 'core'\nworkers = 'many'", 2, "workers: 'many' is not a whole number from 1"),
        ("retention = 7", 1, "retention: '7' is no duration"),
        ("workers = 1.5", 1, "workers: write the value as text, in quotes"),
        ("workers = [1]", 1, "workers: write the value as text, in quotes"),
        ("log-level = 'info'\nlog_level = 'info'", 2, "'log_level' was set before"),
        ("publish_empty = 'maybe'", 1, "publish_empty: 'maybe' is neither true nor false"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_file_line_and_key(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        from_file(text, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/settings.toml:{line}: {said}")
    assert str(caught.value).endswith("?") == ("did you mean" in said)


@pytest.mark.parametrize(
    "text", ["workers = \n", "= 3", "mode = core", "workers = 1\nworkers = 2\n"]
)
def test_a_file_that_is_no_toml_is_named_with_the_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"settings\.toml is no TOML: .*line \d"):
        from_file(text, tmp_path)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"cannot read the settings file .*/none\.toml: No such"
    ):
        read_settings({"config": str(tmp_path / "none.toml")}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="binary is not text"):
        read_settings({"config": str(tmp_path / "binary")}, {})


def test_a_wrong_secret_in_a_file_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        from_file("user = 'a'\npassword = ['s3cret']", tmp_path)
    assert "settings.toml:2: password" in str(caught.value)
    assert "s3cret" not in str(caught.value)


# -- the nats tool ---------------------------------------------------------------------------------


def test_the_variables_of_the_nats_tool_are_known() -> None:
    variables = {
        "NATS_URL": "tls://a:1",
        "NATS_CREDS": "/creds",
        "NATS_CERT": "/cert",
        "NATS_KEY": "/key",
        "NATS_CA": "/ca",
    }
    settings = read_settings({}, variables).settings
    assert settings.server == ("tls://a:1",)
    files = settings.creds, settings.tls_cert, settings.tls_key, settings.tls_ca
    assert files == (Path("/creds"), Path("/cert"), Path("/key"), Path("/ca"))
    assert read_settings({}, {"NATS_NKEY": "/nkey"}).settings.nkey == Path("/nkey")
    assert read_settings({}, {"NATS_TOKEN": "t"}).settings.token == "t"
    login = read_settings({}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}).settings.login
    assert (login.user, login.password) == ("u", "p")


def test_a_user_of_the_nats_tool_without_a_password_is_a_token_and_masked() -> None:
    read = read_settings({}, {"NATS_USER": "t0ken"})
    assert (read.settings.token, read.settings.user) == ("t0ken", "")
    assert "t0ken" not in repr(read.settings)


def test_a_context_is_named_by_option_variable_or_file(tmp_path: Path) -> None:
    found = context(
        tmp_path, url="nats://a:1", creds="~/ops.creds", description="x", socks_proxy=""
    )
    named = [
        read_settings({"context": "ops"}, found),
        read_settings({}, found | {"NATS_CONTEXT": "ops"}),
        read_settings({}, found | {"ALARMDIGEST_CONTEXT": "ops", "NATS_CONTEXT": "other"}),
        from_file("context = 'ops'", tmp_path, found),
    ]
    for read in named:
        assert read.settings.server == ("nats://a:1",)
        assert read.settings.creds == Path.home() / "ops.creds"


def test_without_xdg_a_context_is_below_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(tmp_path / ".config", url="nats://a:1", jetstream_domain="hub")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings({"context": "ops"}, {}).settings
    assert (settings.server, settings.js_domain) == (("nats://a:1",), "hub")


def test_a_context_says_where_answers_may_come_in(tmp_path: Path) -> None:
    found = context(tmp_path, url="nats://a:1", inbox_prefix="_OPS")
    assert read_settings({"context": "ops"}, found).settings.login.inbox_prefix == "_OPS"
    found = context(tmp_path, url="nats://a:1", inbox_prefix="_OPS.>")
    with pytest.raises(
        SettingsError, match=r"ops\.json, inbox_prefix: '_OPS.>' is no NATS subject"
    ):
        read_settings({"context": "ops"}, found)


@pytest.mark.parametrize("key", ["socks_proxy", "nsc", "user_jwt", "never_heard"])
def test_what_a_context_asks_for_and_we_cannot_do_is_refused(tmp_path: Path, key: str) -> None:
    found = context(tmp_path, url="nats://a:1", **{key: "s3cret"})
    with pytest.raises(SettingsError, match=rf"ops\.json: {key} is set") as caught:
        read_settings({"context": "ops"}, found)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../ops", "a/b", ".ops"])
def test_what_is_no_name_of_a_context_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no name of a context"):
        read_settings({"context": name}, {"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_context_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    found = context(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot read the context .*/none\.json"):
        read_settings({"context": "none"}, found)
    for text in ('{"token": "s3cret"', '["s3cret"]', '{"token": ["s3cret"]}'):
        private(tmp_path / "nats/context/ops.json", text)
        with pytest.raises(SettingsError, match=r"ops\.json") as caught:
            read_settings({"context": "ops"}, found)
        assert "s3cret" not in str(caught.value)


# -- who wins --------------------------------------------------------------------------------------


def test_options_win_over_variables_the_tools_the_file_the_context_and_the_default(
    tmp_path: Path,
) -> None:
    environment = context(tmp_path, url="nats://context")
    texts = {"context": "ops", "config": str(private(tmp_path / "settings.toml", ""))}
    places = [read_settings(texts, environment).settings.server[0]]
    private(tmp_path / "settings.toml", "server = 'file'")
    places.append(read_settings(texts, environment).settings.server[0])
    environment["NATS_URL"] = "tool"
    places.append(read_settings(texts, environment).settings.server[0])
    environment["ALARMDIGEST_SERVER"] = "variable"
    places.append(read_settings(texts, environment).settings.server[0])
    texts["server"] = "option"
    places.append(read_settings(texts, environment).settings.server[0])
    expected = ["context", "file", "tool", "variable", "option"]
    assert places == [f"nats://{name}" for name in expected]


PLAIN = ["workers", "mode", "retention"]
LAYERS = st.fixed_dictionaries(
    {level: st.sets(st.sampled_from(PLAIN)).map(sorted) for level in Level}
)


@given(LAYERS)
def test_of_each_setting_the_highest_level_that_has_it_wins(
    there: dict[Level, list[str]],
) -> None:
    layers = [
        {name: Given(f"{name} of {level.name}", level, level.name) for name in there[level]}
        for level in sorted(there, reverse=True)
    ]
    expected = {
        name: max(level for level in there if name in there[level])
        for name in PLAIN
        if any(name in names for names in there.values())
    }
    found = merge_by_precedence(layers, [])
    assert {name: one.level for name, one in found.items()} == expected
    assert all(one.text == f"{name} of {one.level.name}" for name, one in found.items())


def test_a_login_of_a_higher_source_replaces_a_lower_one_entirely(tmp_path: Path) -> None:
    found = context(tmp_path, user="u", password="p") | {"NATS_CONTEXT": "ops"}
    assert read_settings({}, found).settings.user == "u"
    settings = read_settings({"creds": "/creds"}, found).settings
    assert (settings.creds, settings.user, settings.password) == (Path("/creds"), "", "")
    settings = read_settings({}, found | {"ALARMDIGEST_PASSWORD": "q"}).settings
    assert (settings.user, settings.password) == ("u", "q")
    settings = read_settings({"password_file": "/password"}, found).settings
    assert (settings.user, settings.password) == ("u", "")


def test_an_empty_way_to_log_in_hides_those_below_it_and_is_none_itself(tmp_path: Path) -> None:
    found = context(tmp_path, token="t") | {"NATS_CONTEXT": "ops", "NATS_CREDS": "/creds"}
    assert read_settings({}, found).settings.token == ""
    settings = read_settings({}, found | {"ALARMDIGEST_CREDS": ""}).settings
    assert (settings.creds, settings.token) == (None, "t")
    both = {"ALARMDIGEST_CREDS": "", "ALARMDIGEST_TOKEN": "t"}
    assert read_settings({}, both).settings.token == "t"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ALARMDIGEST_TOKEN": "t", "ALARMDIGEST_CREDS": "c"}, "exclude each other"),
        ({"NATS_NKEY": "n", "NATS_CREDS": "c"}, "NATS_CREDS and NATS_NKEY exclude each other"),
        ({"ALARMDIGEST_TOKEN": "t", "ALARMDIGEST_TOKEN_FILE": "f"}, "exclude each other"),
        ({"ALARMDIGEST_PASSWORD": "p"}, "--user is missing"),
        ({"ALARMDIGEST_USER": "u"}, "--password-file or ALARMDIGEST_PASSWORD is missing"),
        ({"NATS_URL": "a", "NATS_CERT": "c"}, "--tls-cert and --tls-key belong together"),
        ({"NATS_CA": "c"}, "need a --server"),
    ],
)
def test_a_login_that_cannot_be_meant_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings({}, environment)


# -- files that others can read --------------------------------------------------------------------


def test_a_settings_file_or_context_with_a_secret_is_better_not_readable_by_others(
    tmp_path: Path,
) -> None:
    environment = context(tmp_path, url="nats://u:p@a")
    files = tmp_path / "settings.toml", tmp_path / "nats/context/ops.json"
    private(files[0], "token = 't'")
    texts = {"config": str(files[0]), "context": "ops"}
    assert read_settings(texts, environment).warnings == ()
    for file in files:
        file.chmod(0o644)
    warnings = read_settings(texts, environment).warnings
    assert [f"chmod 600 {file}" in line for file, line in zip(files, warnings, strict=True)]
    files[0].chmod(0o646)
    with pytest.raises(SettingsError, match="everybody may write"):
        read_settings(texts, environment)
    private(files[0], "workers = 3").chmod(0o644)
    files[1].chmod(0o600)
    assert read_settings(texts, environment).warnings == ()


def test_a_user_of_a_context_without_a_password_is_a_secret(tmp_path: Path) -> None:
    """To the nats tool it is a token; beside a password from elsewhere it is a user's name."""
    file = tmp_path / "nats/context/ops.json"
    environment = context(tmp_path, url="nats://a", user="t0ken")
    file.chmod(0o644)
    for texts in ({}, {"creds": "/creds"}):
        [warning] = read_settings({"context": "ops", **texts}, environment).warnings
        assert f"chmod 600 {file}" in warning
    named = read_settings({"context": "ops", "password_file": "/password"}, environment)
    assert (named.settings.user, named.warnings) == ("t0ken", ())
    settings = private(tmp_path / "settings.toml", "user = 'u'\npassword_file = '/password'")
    settings.chmod(0o644)
    for texts in ({}, {"creds": "/creds"}):
        assert read_settings({"config": str(settings), **texts}, {}).warnings == ()


# -- several mistakes ------------------------------------------------------------------------------


def test_what_is_usable_beside_the_mistakes_is_used(tmp_path: Path) -> None:
    file = private(tmp_path / "settings.toml", "mode = 'core'\nworker = 3\nretention = 'long'")
    found = resolve({"config": str(file), "split_size": "1"}, {"NATS_URL": "a"})
    assert (found.settings.mode, found.settings.server) == ("core", ("nats://a",))
    assert found.settings.retention == Settings().retention
    assert [one.partition(" ")[0] for one in found.problems] == [
        *(f"{file}:2:", f"{file}:3:", "--split-size")
    ]


def test_a_value_that_is_wrong_is_not_compared_with_others() -> None:
    """Its default contradicts what is beside it, which says nothing about what was meant."""
    found = resolve({"event_subject": "a b", "digest_subject": "AlarmStatusChanged.x"}, {})
    assert [one.partition(":")[0] for one in found.problems] == ["--event-subject"]


def test_of_two_secrets_one_complaint_is_enough() -> None:
    both = {"ALARMDIGEST_PASSWORD": "p", "ALARMDIGEST_PASSWORD_FILE": "f", "ALARMDIGEST_USER": "u"}
    found = resolve({}, both)
    assert len(found.problems) == 1
    assert "exclude each other" in found.problems[0]


# -- variables that nothing reads ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("ALARMDIGEST_WORKER", "3", "; did you mean 'ALARMDIGEST_WORKERS'?"),
        ("ALARMDIGEST_DATADIR", "x", "; did you mean 'ALARMDIGEST_DATA_DIR'?"),
        ("ALARMDIGEST_CONFIG_FILE", "x", "; did you mean 'ALARMDIGEST_CONFIG'?"),
        ("ALARMDIGEST_ZZZ", "", ""),
        # Beginning or ending as those of Kubernetes do.
        ("ALARMDIGEST_HTTP_PORT", "9595", "; did you mean 'ALARMDIGEST_HTTP'?"),
        ("ALARMDIGEST_PORT", "9595", ""),
        ("ALARMDIGEST_SERVICE_API", "no", "; did you mean 'ALARMDIGEST_NO_SERVICE_API'?"),
    ],
)
def test_a_variable_that_is_mistyped_is_named_with_the_nearest_one(
    name: str, text: str, hint: str
) -> None:
    [warning] = read_settings({}, {name: text, "ALARMDIGEST_HTTP": "off"}).warnings
    assert warning == f"the variable {name} is set, and there is no such setting{hint}"


def test_variables_of_kubernetes_of_tests_and_of_the_build_are_no_mistakes() -> None:
    """What a container is told of the Services alarmdigest and alarmdigest-x of its namespace."""
    tcp = "tcp://10.0.0.1:9595"
    injected = {
        f"ALARMDIGEST{name}_{rest}": text
        for name in ("", "_X")
        for rest, text in {
            **{"SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "9595", "SERVICE_PORT_HTTP": "9595"},
            **{"PORT": tcp, "PORT_9595_TCP": tcp, "PORT_9595_TCP_PROTO": "tcp"},
            **{"PORT_9595_TCP_PORT": "9595", "PORT_9595_TCP_ADDR": "10.0.0.1"},
        }.items()
    }
    ours = ("TEST_LONG", "TEST_ANY", "BENCH_ROUNDS", "FAILPOINT", "DEBUG", "SANITIZE")
    others = {"ALARMDIGEST": "x", "ALARMDIGESTS_X": "x", "NATS_WORKERS": "x"}
    environment = injected | others | {f"ALARMDIGEST_{name}": "1" for name in ours}
    assert read_settings({}, environment).warnings == ()


# -- check-config ----------------------------------------------------------------------------------


def test_check_config_tells_values_and_origins_and_masks_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = private(tmp_path / "settings.toml", "retention = '2d'\ntoken = 's3cret-1'")
    monkeypatch.setenv("NATS_URL", "nats://u:s3cret-2@a:1,b:2")
    monkeypatch.setenv("ALARMDIGEST_HTTP", "off")
    arguments = ["check-config", "--config", str(file), "--workers", "3"]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr().out
    told = json.loads(printed)
    expected = {
        "workers": ("3", "--workers"),
        "http": ("off", "ALARMDIGEST_HTTP"),
        "server": ("nats://a:1,nats://b:2", "NATS_URL"),
        "retention": ("2d", f"{file}:1"),
        "token": ("********", f"{file}:2"),
        "user": ("u", "NATS_URL"),
        "password": ("********", "NATS_URL"),
        "mode": ("auto", "default"),
        "publish_empty": ("false", "default"),
    }
    for name, (value, origin) in expected.items():
        assert told["settings"][name] == {"value": value, "origin": origin}
    assert told["warnings"] == []
    file.chmod(0o644)
    assert main(arguments) == 0
    lines, warnings = capsys.readouterr()
    assert [line.split() for line in lines.splitlines() if line.startswith("retention")] == [
        ["retention", "2d", f"{file}:1"]
    ]
    assert f"chmod 600 {file}" in warnings
    assert "s3cret" not in printed + lines + warnings


def test_an_empty_variable_counts_as_not_set_but_hides_a_weaker_login() -> None:
    below = {"NATS_URL": "nats://a:1", "NATS_TOKEN": "t"}
    empty = dict.fromkeys(("ALARMDIGEST_SERVER", "ALARMDIGEST_WORKERS", "ALARMDIGEST_HTTP"), "")
    read = read_settings({}, {**below, **empty, "ALARMDIGEST_TOKEN": ""}).settings
    assert read == replace(Settings(), server=("nats://a:1",))
    assert read_settings({}, {**below, **empty}).settings.token == "t"


@pytest.mark.parametrize(
    ("url", "more", "shown"),
    [
        ("nats://me:s3%2Fcret@a", {}, {"user": "me", "password": "********", "token": ""}),
        ("nats://s3cret@a", {}, {"user": "", "password": "", "token": "********"}),
        ("nats://a", {}, {"user": "", "password": "", "token": ""}),
        # For b it is the other one.
        (
            "nats://me:s3cret@a,b",
            {"ALARMDIGEST_USER": "you", "ALARMDIGEST_PASSWORD": "s3cret"},
            {"user": "me,you", "password": "********", "token": ""},
        ),
    ],
)
def test_check_config_shows_the_login_that_hides_in_a_url(
    url: str,
    more: dict[str, str],
    shown: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in {"NATS_URL": url, **more}.items():
        monkeypatch.setenv(name, text)
    assert main(["check-config", "--json"]) == 0
    printed = capsys.readouterr().out
    told = json.loads(printed)["settings"]
    assert {name: told[name]["value"] for name in shown} == shown
    for name, value in shown.items():
        of_more = f", ALARMDIGEST_{name.upper()}" if more and value else ""
        assert told[name]["origin"] == (f"NATS_URL{of_more}" if value else "default")
    assert "cret" not in printed


def test_check_config_lists_a_variable_that_nothing_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALARMDIGEST_WORKER", "3")
    assert main(["check-config"]) == 0
    warning = "alarmdigest: warning: the variable ALARMDIGEST_WORKER is set"
    assert capsys.readouterr().err.startswith(warning)


@pytest.mark.parametrize(
    ("encoding", "written", "shown"),
    [
        ("ascii", "café", r"caf\xe9"),
        ("utf-8", "café", "café"),
        ("ascii", "\udcff", r"\udcff"),  # a byte that is no UTF-8
        ("utf-8", "\udcff", r"\udcff"),
        ("utf-8", "x\nworkers  99\x1b[2J", r"x\nworkers  99\x1b[2J"),
    ],
)
def test_check_config_writes_what_no_terminal_obeys_and_every_encoding_has(
    encoding: str, written: str, shown: str, tmp_path: Path
) -> None:
    file = private(tmp_path / f"{written}.toml", f"token = {json.dumps('t')}\nworkers = 3")
    file.chmod(0o644)
    variables = {
        "ALARMDIGEST_DATA_DIR": written,
        "ALARMDIGEST_CONFIG": str(file),
        "PYTHONIOENCODING": encoding,
    }
    result = run_command("check-config", **variables)
    assert result.returncode == 0
    rows = [re.split(" {2,}", line, maxsplit=2) for line in result.stdout.splitlines()]
    assert ["workers", "3", f"{tmp_path}/{shown}.toml:2"] in rows
    [data_dir] = [line for line in result.stdout.splitlines() if line.startswith("data_dir ")]
    assert data_dir.split(maxsplit=1)[1].startswith(f"{shown} ")
    [warning] = result.stderr.splitlines()
    assert warning.startswith("alarmdigest: warning: ")
    assert warning.endswith(f"chmod 600 {tmp_path}/{shown}.toml")
    assert len(rows) == len(fields(Settings))


def test_problems_are_a_line_each_whatever_is_in_them(tmp_path: Path) -> None:
    missing = str(tmp_path / "x\nalarmdigest: forged\x1b[2J")
    for command in ("check-config", "verify"):
        result = run_command(command, "--creds", missing, NATS_URL="nats://127.0.0.1:1")
        assert result.returncode == 2
        assert result.stderr == (
            f"alarmdigest: cannot read {tmp_path}/x\\nalarmdigest: forged\\x1b[2J: "
            "No such file or directory\n"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "fast"], "--mode: 'fast' is none of"),
        (["--config", "/no/such"], "/no/such"),
        (["--config", "~nosuchuser/x"], "--config: '~nosuchuser/x'"),
        (["--nkey", "~nosuchuser/x"], "--nkey: '~nosuchuser/x'"),
        (["--creds", "/no/such"], "cannot read /no/such"),
        (["--server", "http://a"], "cannot use server URL http://a"),
    ],
)
def test_check_config_ends_with_2_and_the_reason(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", *arguments]) == 2
    printed, complaint = capsys.readouterr()
    assert said in complaint
    assert printed == ""


@pytest.mark.parametrize("command", ["run", "verify", "emulate", "check-config"])
@pytest.mark.parametrize("arguments", [["--password", "s3cret"], ["--token=s3cret"]])
def test_a_secret_is_no_option_and_not_shown_when_it_is_given_as_one(
    command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, *arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "could be read in the list of processes" in said
    assert "s3cret" not in said
