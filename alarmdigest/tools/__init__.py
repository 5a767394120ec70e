"""Commands that talk to a running service from the outside, as its users do."""
