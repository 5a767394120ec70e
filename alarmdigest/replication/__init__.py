"""Several instances as one service: who of them speaks, and what the others learn from it."""
