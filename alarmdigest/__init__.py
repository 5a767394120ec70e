"""alarmdigest: one message with what is wrong now, instead of one per change, on NATS."""

__version__ = "0.1.0"
