"""Who gets what, and what is wrong with a file of routes: one clear line each, without a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.paths import ROOT

from alarmdigest.connect.deliver.addresses import Unaddressable, UrlTemplate
from alarmdigest.connect.deliver.rates import RateLimit, rate
from alarmdigest.connect.deliver.routes import Routes
from alarmdigest.connect.deliver.routes_file import read_routes
from alarmdigest.settings import SettingsError

GOOD = """
[targets.mail]
url = "mailto://mail.example.com/?from=a@example.com&to={mail}"
[targets.web]
url = "json://web.example.com/{UserID}"
worst = "CRITICAL"
[users."ada"]
mail = "ada@example.com"
zone = "Europe/London"
[[routes]]
users = ["ops-*"]
targets = ["web"]
continue = true
zone = "Europe/Berlin"
[[routes]]
users = ["ada", "ops-*"]
targets = ["mail", "web"]
"""


def read(folder: Path, text: str) -> Routes:
    file = folder / "deliver.toml"
    file.write_text(text, "utf-8")
    return read_routes(file)


def test_the_first_route_counts_unless_it_says_otherwise(tmp_path: Path) -> None:
    routes = read(tmp_path, GOOD)
    assert [way.target.name for way in routes.ways("ada")] == ["mail", "web"]
    assert [way.target.name for way in routes.ways("ops-1")] == ["web", "mail"]
    assert routes.ways("bob") == []
    mail, web = routes.ways("ada")
    assert mail.address == "mailto://mail.example.com/?from=a@example.com&to=ada%40example.com"
    assert (str(mail.zone), str(routes.ways("ops-1")[0].zone)) == ("Europe/London", "Europe/Berlin")
    assert web.wants("CRITICAL")
    assert not web.wants("WARNING")
    assert mail.wants("WARNING")
    assert "no mail for this user" in routes.ways("ops-1")[1].problem


def test_the_shipped_file_has_every_key_and_the_defaults() -> None:
    text = (ROOT / "deploy/deliver.toml").read_text("utf-8")
    routes, plain = read_routes(ROOT / "deploy/deliver.toml"), Routes()
    for part in ("consumer", "sending", "storage", "messages"):
        assert getattr(routes, part) == getattr(plain, part)
        for key in getattr(plain, part).__slots__:
            assert f"\n{key} = " in text or f"\n#{key} = " in text, key
    for key in ("url_file", "url_env", "format", "rate", "worst", "unsubscribe", "continue"):
        assert f"\n{key} = " in text or f"\n#{key} = " in text, key


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('targets = ["web"]', 'targets = ["sms"]'), "there is no target sms; there are mail, web"),
        (('"Europe/Berlin"', '"Mars/Olympus"'), "is no time zone"),
        (('"Europe/London"', '"../etc/passwd"'), "is no time zone"),
        (('url = "json://', 'url = "nonsense://'), "[targets.web] url: Apprise cannot read it"),
        (('url = "json://', 'url = "no url '), "[targets.web] url: this is no URL"),
        (('url = "json://web.example.com/{UserID}"', ""), "needs one of url, url_file and url_env"),
        (
            ('url = "json://web.example.com/{UserID}"', 'url_env = "NOT_THERE"'),
            "the variable NOT_THERE is not set",
        ),
        (
            ('url = "json://web.example.com/{UserID}"', 'url_file = "/not/there"'),
            "cannot read /not/there: No such file",
        ),
        (('worst = "CRITICAL"', 'worst = "BAD"'), "is none of WARNING, CRITICAL"),
        (('worst = "CRITICAL"', 'rate = "often"'), "is no rate"),
        (('worst = "CRITICAL"', 'formt = "html"'), "has no formt; do you mean format?"),
        (('["ada", "ops-*"]', "[]"), "users: the list is empty"),
        (("[[routes]]", "[routes]", 2), "is no TOML"),
        (("[targets.mail]", "[sending]\nattempts = 0\n[targets.mail]"), "from 1 to 1000"),
        (("[targets.mail]", "[sendign]\n[targets.mail]"), "there is no table [sendign]"),
        (('["ops-*"]', '["*"]\nworst = "WARNING"', 1), "continue"),
    ],
)
def test_a_mistake_is_one_line_that_says_where_and_what(
    tmp_path: Path, change: tuple[str, str] | tuple[str, str, int], said: str
) -> None:
    text = GOOD.replace("continue = true\n", "") if said == "continue" else GOOD
    with pytest.raises(SettingsError) as wrong:
        read(tmp_path, text.replace(*change))
    lines = [str(one) for one in wrong.value.args]
    assert any(said in line for line in lines), lines
    assert all(line.startswith(("cannot read", str(tmp_path))) for line in lines)
    assert not any("example.com" in line for line in lines)


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("json://", "nonsense://").replace("Europe/", "Mars/")
    with pytest.raises(SettingsError) as wrong:
        read(tmp_path, text)
    assert len(wrong.value.args) >= 3


def test_without_a_file_it_says_how_to_name_one() -> None:
    with pytest.raises(SettingsError, match="ALARMDIGEST_DELIVER_ROUTES"):
        read_routes(None)


@pytest.mark.parametrize(
    "user",
    [
        "a/../b",
        "a,b@evil.example",
        "a b",
        "a%2Fb",
        "a?to=b",
        "a#b",
        "..",
        ".",
        "a\nb",
        "<a@b.c>",
        "ä/",
    ],
)
def test_what_would_change_an_address_does_not_come_into_it(user: str) -> None:
    with pytest.raises(Unaddressable):
        UrlTemplate("json://host/{UserID}").fill(user, {})


def test_a_user_whose_id_is_an_address_cannot_become_somebody_elses() -> None:
    template = UrlTemplate("mailto://host/?from=a@b.example&to={UserID}@example.com")
    assert template.fill("ada", {}).endswith("to=ada@example.com")
    with pytest.raises(Unaddressable, match="@"):
        template.fill("ada@evil.example", {})
    whole = UrlTemplate("mailto://host/?from=a@b.example&to={UserID}")
    assert whole.fill("ada@example.com", {}).endswith("to=ada%40example.com")
    assert "secret" not in repr(UrlTemplate("json://user:secret@host"))


def test_a_rate_holds_in_any_window() -> None:
    limit = RateLimit(rate("3/m"))
    for now in (0.0, 1.0, 2.0):
        assert limit.wait_s(now) == 0
        limit.take(now)
    assert limit.wait_s(3.0) == 57.0
    assert limit.wait_s(60.0) == 0
    limit.take(60.0)
    assert limit.wait_s(60.5) == 0.5


@pytest.mark.parametrize("value", ["", "a@x.example,b@x.example", "no address", "a;b", "a\tb"])
def test_a_user_has_one_address(tmp_path: Path, value: str) -> None:
    """An empty one would be the sender's own, and of several one may refuse."""
    file = tmp_path / "deliver.toml"
    file.write_text(
        '[targets.mail]\nurl = "mailto://localhost/?from=a@example.com&to={mail}"\n'
        '[[routes]]\nusers = ["*"]\ntargets = ["mail"]\n'
        f'[users."ada"]\nmail = {json.dumps(value)}\n',
        "utf-8",
    )
    with pytest.raises(SettingsError, match="is not one address"):
        read_routes(file)
