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
