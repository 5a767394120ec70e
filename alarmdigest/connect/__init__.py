"""What connects the service to other systems. Touches it through NATS only."""
