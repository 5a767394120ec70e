"""A connection to a real nats-server in use, and lost; and pynats2, which it stands on."""

import subprocess
import sys
import time

import pytest
from support.nats_server import HOST, NatsServer, free_port
from support.proxy import Proxy
from support.talk import talk

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, UrlError

# -- in use ----------------------------------------------------------------------------------------


def test_messages_with_and_without_headers_are_read() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url) as peer:
        header = b"NATS/1.0\r\nA: b\r\n\r\n"
        peer.connection.send(b"SUB x  7\r\nPUB x back 2\r\nhi\r\n")
        peer.connection.send(b"HPUB x %d %d\r\n%byo\r\n" % (len(header), len(header) + 2, header))
        peer.flush()
        assert peer.frames == [
            (frames.MSG, 7, b"x", b"back", b"", b"hi"),
            (frames.HMSG, 7, b"x", b"", header, b"yo"),
            (frames.PONG, 0, b"", b"", b"", b""),
        ]


def test_frames_in_pieces_are_put_together_from_the_first_byte_on() -> None:
    """Also the INFO behind the first PONG, which comes while the connection is being opened."""
    with NatsServer(jetstream=False) as server, Proxy(server.port) as proxy:
        proxy.split(7, pause=0)
        with talk(proxy.url) as peer:
            peer.connection.send(b"SUB x  1\r\nPUB x 20\r\n01234567890123456789\r\n")
            peer.flush()
            assert peer.frames[0][-1] == b"01234567890123456789"


def test_pings_of_the_server_are_answered() -> None:
    with (
        NatsServer(jetstream=False, extra='ping_interval: "100ms"\nping_max: 1') as server,
        talk(server.url) as peer,
    ):
        peer.read_until(lambda: peer.count(frames.PING) >= 5)
        peer.flush()


def test_a_new_server_in_the_cluster_is_announced() -> None:
    ports = free_port(), free_port()

    def cluster(own: int) -> str:
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        return f'cluster {{ name: c, host: "{HOST}", port: {ports[own]}, routes: [{routes}] }}'

    with NatsServer(jetstream=False, extra=cluster(0)) as first, talk(first.url) as peer:
        assert not peer.connection.info.get("connect_urls", [])[1:]
        with NatsServer(jetstream=False, extra=cluster(1)) as second:
            peer.read_until(
                lambda: f"{HOST}:{second.port}" in peer.connection.info.get("connect_urls", ())
            )


def test_a_harmless_error_is_handed_back_and_the_connection_goes_on() -> None:
    limits = "users: [{user: u, password: p, permissions: {publish: {deny: [held]}}}]"
    with (
        NatsServer(jetstream=False, extra=f"authorization {{ {limits} }}") as server,
        talk(f"nats://u:p@{HOST}:{server.port}") as peer,
    ):
        peer.connection.send(b"PUB held 0\r\n\r\n")
        peer.flush()
        assert peer.refusals == ['Permissions Violation for Publish to "held"']


def test_after_a_fatal_error_the_connection_is_lost_with_the_server_s_words() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url) as peer:
        peer.connection.send(b"NONSENSE\r\n")
        with pytest.raises(ConnectionLost, match="Unknown Protocol Operation"):
            peer.read_until(lambda: False)


# -- lost ------------------------------------------------------------------------------------------


def test_the_end_of_the_stream_is_noticed_at_once_and_costs_no_time() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url) as peer:
        server.kill()
        buffer = bytearray(100)
        start, cpu = time.monotonic(), time.process_time()
        with pytest.raises(ConnectionLost, match="closed the connection"):
            peer.connection.receive_into(buffer, 0, 10)
        assert time.monotonic() - start < 2
        assert time.process_time() - cpu < 0.1


def test_a_reset_is_a_loss() -> None:
    with NatsServer(jetstream=False) as server, Proxy(server.port) as proxy, talk(proxy.url) as it:
        proxy.cut()
        with pytest.raises(ConnectionLost):
            it.read_until(lambda: False)


def test_a_paused_server_is_given_up_after_two_ping_intervals() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url, ping_interval=0.4) as peer:
        server.pause()
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="no answer to our pings"):
            peer.read_until(lambda: False)
        assert 0.4 < time.monotonic() - start < 1.6


def test_a_quiet_server_that_answers_pings_is_kept() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url, ping_interval=0.1) as peer:
        peer.read_until(lambda: peer.connection.pongs >= 6)


# -- pynats2 ---------------------------------------------------------------------------------------

WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pkg_resources", "setuptools"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocker())
import alarmdigest.nats.connection
assert "pkg_resources" not in sys.modules
try:
    import pkg_resources
except ModuleNotFoundError:
    print("fine")
"""
WITH = """
import sys, types
real = sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
asked = []
def get_distribution(name):
    asked.append(name)
    return types.SimpleNamespace(version="1")
real.get_distribution = get_distribution
from alarmdigest.nats.connection import Connection
Connection("nats://somewhere", name="test")
assert sys.modules["pkg_resources"] is real and not asked, asked
print("fine")
"""


@pytest.mark.parametrize("program", [WITHOUT, WITH], ids=["without", "with"])
def test_pynats2_is_imported_with_and_without_pkg_resources(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("url", ["nats://svc:hunter2", "nats://svc:hunter2,x@h:4222x"])
def test_what_stands_for_a_port_may_be_a_password_and_is_not_repeated(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        Connection(url, name="test")
    assert "hunter2" not in str(caught.value)
    assert "no number" in str(caught.value)


def test_a_server_that_takes_nothing_of_what_we_write_is_lost_in_time() -> None:
    """Its buffers and ours are full."""
    with NatsServer(jetstream=False) as server, talk(server.url) as peer:
        server.pause()
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="no sign of life"):
            peer.connection.send(b"PING\r\n" * 5_000_000)
        assert time.monotonic() - start < 4


def test_a_slow_link_is_not_taken_for_a_dead_one() -> None:
    with (
        NatsServer(jetstream=False) as server,
        Proxy(server.port) as proxy,
        talk(proxy.url) as peer,
    ):
        proxy.delay(0.1)  # for each 64 KiB
        peer.connection.send(b"PUB a 1000000\r\n" + b"x" * 1_000_000 + b"\r\n")
        peer.connection.send(b"PUB a 1000000\r\n" + b"x" * 1_000_000 + b"\r\n")
        peer.flush()


def test_an_answer_that_is_awaited_tells_within_two_seconds_that_the_server_hangs() -> None:
    with NatsServer(jetstream=False) as server, talk(server.url) as peer:
        connection, buffer = peer.connection, bytearray(1000)

        def wait_for_an_answer() -> None:
            while time.monotonic() < start + 10:
                connection.receive_into(buffer, 0, 0.05)
                connection.still_there()

        server.pause()
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="no sign of life"):
            wait_for_an_answer()
        assert 0.7 < time.monotonic() - start < 2.5
