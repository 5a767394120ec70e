"""When: the service is asked for a user's digest at the time that the user's schedule says.

A schedule says for each moment since which something is due when it is to be told
(``schedule.py``, ``timetable.py``). So the only state is what the service keeps anyway: who is due,
and since when. Whoever takes over, after a minute or a night, comes to the same times.

The life of a due alarm, in the order of the modules:

1. ``entries.py``: the schedules of all users stand in a key-value bucket, which ``alarmdigest
   schedule`` changes (``editing.py``, ``toml_file.py``) and ``schedules.py`` follows.
2. ``due_news.py`` (thread *news*) hears from the service who becomes due, and ``due_list.py`` lists
   who is, where news may have been missed.
3. ``agenda.py`` keeps who is due at what time, and ``scheduler.py`` (thread *scheduler*) publishes
   a ``SendAlarmDigest`` for each whose time has come, if it holds the lease (``connect/lease.py``).
"""
