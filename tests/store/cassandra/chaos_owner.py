"""One owner of the chaos test, a process of its own: it claims, checks what it finds, and commits
until it is ended. It tells each of these on stdout, as JSON.

Every checkpoint holds a hash of all rows as they are then, and the whole history of commits, so
that whoever loads it can tell whether it is whole, and the judge whether one that was acknowledged
is missing.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys

from support.keyspaces import claimed
from support.rows import Rows, checkpoint, key_of, packed, unpacked

from alarmdigest.state.position import OutputPosition
from alarmdigest.store import AllRowsNeeded, StoreAway, StoreError, StoreInUse
from alarmdigest.store.cassandra.target import Target

KEYS = [key_of(f"user-{number}", block) for number in range(30) for block in range(3)]
HISTORY = "history"


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def hash_of(rows: Rows) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for key in sorted(rows):
        hashed.update(key + rows[key] + b"|")
    return hashed.hexdigest()


class Owner:
    def __init__(self, target: Target, seed: str) -> None:
        self._dice = random.Random(seed)
        self._store = claimed(target)
        self._rows = dict(unpacked(self._store.rows()))
        self._history: list[str] = []
        self._number = 0
        if (last := self._store.last) is not None:
            told = last.outputs[HISTORY]
            self._history = json.loads(told.created)
            self._number = last.number
            if told.message_id != hash_of(self._rows):
                say(violation=f"the rows of checkpoint {last.number} are not those it was made of")
        say(loaded=self._history)

    def run(self) -> None:
        while True:
            self._commit_once()
            while self._dice.random() < 0.7 and self._tidy_up():
                pass

    def _tidy_up(self) -> bool:
        try:
            return self._store.tidy_up()
        except StoreError:
            return False

    def _commit_once(self) -> None:
        """With the same rows again and again until it is known, or with more."""
        changes: Rows = {}
        while True:
            if not changes or self._dice.random() < 0.3:
                few = self._dice.sample(KEYS, self._dice.choice((0, 1, 10, 60)))
                sizes = (0, 5, 300, 3900)
                more = {key: self._dice.randbytes(self._dice.choice(sizes)) for key in few}
                changes |= more
                self._rows = {k: v for k, v in (self._rows | more).items() if v}
                tag = f"{self._dice.getrandbits(40):010x}"
                record = OutputPosition(json.dumps([*self._history, tag]), 0, hash_of(self._rows))
                made = checkpoint(len(self._rows), self._number + 1, outputs={HISTORY: record})
            try:
                self._store.commit([packed(changes)], made)
            except AllRowsNeeded:
                say(violation="the store says that it has lost commits")
            except StoreInUse:
                say(taken=True)
                sys.exit(0)
            except StoreError as error:
                say(failed=str(error)[:100])
                # The one that failed may be valid yet; then this one stands behind it.
                self._number += 1
                continue
            self._history.append(tag)
            self._number += 1
            say(acked=tag)
            return


def main() -> None:
    hosts, keyspace, seed, timeout_s = sys.argv[1:5]
    pairs = [one.rsplit(":", 1) for one in hosts.split(",")]
    target = Target(
        tuple((host, int(port)) for host, port in pairs), keyspace, timeout_s=float(timeout_s)
    )
    while True:
        try:
            owner = Owner(target, seed)
        except StoreInUse:
            sys.exit(0)
        except StoreError as error:
            # A node that stands still or is killed may be the reason of these two only.
            if type(error) not in (StoreError, StoreAway):
                say(violation=str(error))
                sys.exit(1)
            say(failed=str(error)[:100])
            continue
        owner.run()


if __name__ == "__main__":
    main()
