"""Out: digests become messages to people, by mail, chat and push.

The life of a digest, in the order of the modules:

1. ``deliverer.py`` (thread *deliverer*) owns the connection to NATS. Of several processes one holds
   the lease (``connect/lease.py``) and acts. ``consumer.py`` pulls digests; ``intake.py`` lets them
   in by their order in the stream, also after a crash; ``digests.py`` reads them, and puts the
   parts of a large one together.
2. ``dispatch.py`` looks up who gets it (``routes.py``, read by ``routes_file.py``; ``addresses.py``
   fills the URLs), and what of it was sent before (``delivered.py``). ``composer.py`` makes a
   ``message.py`` of it: it asks the service what else is active, and ``told.py`` knows what the
   user was told.
3. ``lanes.py`` holds the messages: one lane for each filled URL, each in order. The threads of
   ``pool.py`` (*sender-N*) take what may go next, render it (``rendering.py``) and send it
   (``sender.py``, ``mail.py``). What fails pauses and is tried again, or given up.
4. ``settling.py`` (thread *deliverer*) records what was sent, stores ``dead_letters.py`` of what
   was given up, and then acknowledges the digests that are through.

``trial.py``, ``dry_run.py`` and ``retry.py`` are for an operator: one message at once, what would
be sent, and dead letters once more.
"""
