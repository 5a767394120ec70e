"""UserID -> worker. All of a user's messages go to one worker, which is why workers share nothing.

Users fall into a fixed number of buckets, and buckets into workers: the number of workers may
change from one start to the next, the bucket of a user never does.
"""

from __future__ import annotations

import mmh3

# A power of two; fixed for ever, since a store is ordered by it.
BUCKETS = 4096


def bucket_of(user_id: str) -> int:
    """The bucket of a user: unsigned 32-bit MurmurHash3 (seed 0) of the UTF-8, mod BUCKETS.

    The compiled router computes the same from the same function; a test holds them together.
    """
    return mmh3.hash(user_id, 0, False) % BUCKETS
