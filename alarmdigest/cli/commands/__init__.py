"""Commands that talk to a service, or look at it, from the outside."""
