"""What talks to NATS, or starts it: the connection, JetStream, and the embedded server."""
