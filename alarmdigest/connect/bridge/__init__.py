"""In: alerts of other monitoring systems, received over HTTP, become events on NATS.

The life of an alert, in the order of the modules:

1. ``receiver.py`` (thread *http*) lets a request in (``authentication.py``, ``connections.py``) and
   reads its body; ``senders/`` knows each sender's format and makes ``Alert`` objects of it.
2. ``mapping.py`` makes ``Alarm`` objects of each by the rules of ``rules.py``: whose, under which
   AlarmID, with which status. What cannot be one is a ``Rejection``. ``details.py`` packs what a
   person may want to read.
3. ``publisher.py`` (thread *publisher*) takes what many requests have brought: ``times.py``
   decides which ChangedAt each gets; details and what is remembered of times go out first, then
   events and rejections. Once JetStream has confirmed all of a request, its answer is 200.
"""
