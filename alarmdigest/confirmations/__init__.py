"""How the publisher knows that the server has what was sent: PONGs, or PubAcks."""
