"""What can go wrong between us and a NATS server."""

from __future__ import annotations


class NatsError(Exception):
    """Base of everything in this module."""


class UrlError(NatsError):
    """A server URL that cannot be used; a matter of configuration, not of the network."""


class ConnectionLost(NatsError):
    """The connection is gone or must be given up; a new one may work."""


class ConnectFailed(ConnectionLost):
    """No connection came about: nobody listens, or the server refused us."""


class LoginRefused(ConnectFailed):
    """The server is there and does not let us in."""


class BadAnswer(ConnectionLost):
    """An answer that JetStream would not give: something else listens on its subjects."""


class NoAnswer(NatsError):
    """The server is there, and JetStream has not answered in time: whether the request was carried
    out is unknown. A stream or cluster that chooses its leader answers nothing meanwhile."""


class ConsumerGone(NatsError):
    """A consumer does not deliver any more; a new one may."""


class JetStreamOff(NatsError):
    """Nobody answers JetStream's requests: the server has none, or the domain is out of reach."""


class JetStreamDenied(NatsError):
    """The server does not let our user make this request, or receive the answer."""


#: Of ``err_code``: JetStream is not there at the moment.
NO_QUORUM = 10008


class JetStreamError(NatsError):
    """JetStream refused a request. ``code`` is like one of HTTP, ``err_code`` says exactly why."""

    def __init__(self, code: int, err_code: int, description: str, request: str = "") -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        text = f"{request or 'JetStream'}: {description} (error {err_code or code})"
        if err_code == NO_QUORUM:
            text += ": its servers are choosing a leader, or fewer than half of them are up"
        super().__init__(text)


class StreamMissing(NatsError):
    """A stream that is needed is not there, and we were told not to create it."""


class StreamConflict(NatsError):
    """A stream that is there cannot be used, or another one holds its subjects; says what to do."""


class LoginError(NatsError):
    """Files of credentials or certificates that cannot be used: one line for each, which names the
    file and never its text."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))
