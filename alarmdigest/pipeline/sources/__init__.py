"""Two ways to be fed: plain subscriptions, or a pull consumer of a stream."""
