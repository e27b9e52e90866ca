"""Backtests: the very topologies and learners that run in production, over a shop's files, without a broker.

`purchase` feeds clicks and orders prequentially: each click is predicted before anything later is known. `demand`
stops at rolling origins and forecasts from what had closed by then. Both take the events in event-time order, so what
they say about a time never depends on what the file holds after it.
"""
