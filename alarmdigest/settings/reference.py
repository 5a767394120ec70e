"""Writes ``docs/configuration.md``: ``python -m alarmdigest.settings.reference > FILE``."""

from __future__ import annotations

from dataclasses import fields

from alarmdigest.settings.nats_cli import CONTEXT_KEYS, VARIABLES
from alarmdigest.settings.options import SECRETS, Settings, default_of, flag_of, variable

HEAD = """\
# Configuration

<!-- Written by `python -m alarmdigest.settings.reference`; a test compares. -->

Each setting is an option, an environment variable and a key of a settings file. What counts is,
from the strongest to the weakest:

1. the option;
2. the variable `ALARMDIGEST_…`;
3. the variable of the [nats](https://github.com/nats-io/natscli) tool, where it has one;
4. the settings file;
5. the context of the `nats` tool;
6. the default.

A variable that is empty counts as not set; for a login it also hides what weaker sources say.

This shows what counts and where it comes from, secrets masked, also a login in a server's URL. If
it can reach the server, it looks at its version and [its streams](streams.md) as a start would, and
changes nothing. If anything cannot be used, it says all that is wrong, and the exit code is 2; so
does the service:

```console
$ alarmdigest check-config
$ alarmdigest check-config --json
```

Times are written like `15ms`, `30s`, `10m`, `1h` or `7d`, sizes like `64KiB` or `512MiB`. Paths
that are not absolute begin where the service starts; `~` is the home directory in those of
credentials and certificates.

A variable `ALARMDIGEST_…` that is none of them is most likely mistyped: each command warns of it
and names the nearest one. (Those that Kubernetes sets for a Service called `alarmdigest` are no
mistake.)

## The settings file

TOML, named by `--config FILE` or `ALARMDIGEST_CONFIG`. Keys may have `-` or `_`. A key that does
not exist is an error that names the line and the nearest one that does.

```toml
server = ["tls://a.example.com", "tls://b.example.com"]
data-dir = "/var/lib/alarmdigest"
creds = "/etc/alarmdigest/alarmdigest.creds"
retention = "14d"
workers = 12
log-format = "json"
```

## Logging in, and TLS

One way to log in: a user with a password, a token, an nkey, or a credentials file (JWT and nkey, as
`nsc` writes it). If sources differ, the strongest source decides alone; two ways from the same
source are an error. A user or token in a server's URL goes before all of them, for that server. An
nkey or a credentials file needs one more package: `pip install 'alarmdigest[nkeys]'`.

The value of a secret is never an option, because everybody on the machine can read the list of
processes. Put it into a file (`--password-file`, `--token-file`), a variable, the settings file or
a context. Of a file with secrets that others than its owner may read the service warns; one that
everybody may write to it refuses.

A server's certificate is always verified. `tls://` in the URL makes TLS a must, and so do
`--tls-ca`, `--tls-cert` and `--tls-first`; with `nats://` alone the server decides. `--tls-first`
is for a server with `handshake_first`. A server that its cluster announces by its address must show
a certificate for the name of the one that announced it.

Files of credentials and certificates are read again for each new connection: replace the file, and
the next connection uses it. What can be read only once, as in `--password-file <(command)`, is
kept; only certificates and their keys must be files.

## The `nats` tool's variables and contexts

A context is named by `--context NAME`, `ALARMDIGEST_CONTEXT`, `NATS_CONTEXT`, or `context` in the
settings file, and read from `~/.config/nats/context/NAME.json` (`XDG_CONFIG_HOME` is honoured). The
one that `nats context select` has selected does not count: a service should not change with it. A
user without a password is a token there. A key that the service cannot honour, like `socks_proxy`,
is an error unless it is empty.

| setting | variable | key of a context |
|---|---|---|
"""

SETTINGS_HEAD = """
## All settings

| option | variable | default | |
|---|---|---|---|
"""

TAIL = """
## Changing settings while it runs

SIGHUP reads all sources again (of the environment only what the process was started with). The log
level changes at once. How it logs in (user, password, token, other files of credentials and
certificates, `--tls-first`) counts from the next connection on; connections that are open stay.
Everything else needs a restart, and a warning says what that would be. A log line says what has
changed, also when it is only what a file of a login holds, or that nothing has. If something is
wrong with the new settings, the old ones stay.
"""


def reference() -> str:
    """The page."""
    return HEAD + "".join(_nats_rows()) + SETTINGS_HEAD + "".join(_rows()) + TAIL


def _nats_rows() -> list[str]:
    variables = {name: f"`{variable}`" for variable, name in VARIABLES.items()}
    keys = {name: f"`{key}`" for key, name in CONTEXT_KEYS.items()}
    return [f"| `{name}` | {variables.get(name, '')} | {key} |\n" for name, key in keys.items()]


def _rows() -> list[str]:
    rows = []
    for item in fields(Settings):
        meta = item.metadata.get("meta", "")
        written = f"`{f'{flag_of(item.name)} {meta}'.rstrip()}`"
        if item.name in SECRETS:
            written = f"(key `{item.name}`)"
        default = default_of(item)
        cells = written, f"`{variable(item.name)}`", default and f"`{default}`"
        rows.append(f"| {' | '.join(cells)} | {item.metadata['help']} |\n")
    return rows


if __name__ == "__main__":
    print(reference(), end="")
