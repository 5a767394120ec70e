"""Tools of the tests: a real nats-server, a network that misbehaves, waiting with a deadline."""
