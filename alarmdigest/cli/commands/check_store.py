"""What ``check-config`` can tell of the store: all that would end a start."""

from __future__ import annotations

from dataclasses import dataclass, field

from alarmdigest.pipeline.startup import check_stored
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store import NoState, StoreAway, StoreError, open_reader


@dataclass(slots=True)
class StoreReport:
    """``reason`` says why it was not looked at; empty where it was, or holds nothing yet."""

    reason: str = ""
    problems: list[str] = field(default_factory=list)


def check_store(settings: Settings) -> StoreReport:
    """Read what is kept there, and change nothing."""
    report = StoreReport()
    if settings.store == "memory":
        return report
    try:
        with open_reader(settings) as reader:
            last = reader.last
        check_stored(settings, last)
    except NoState:
        pass
    except StoreAway as error:
        report.reason = str(error)
    except StoreError as error:
        report.problems.append(str(error))
    except SettingsError as error:
        report.problems += map(str, error.args)
    return report
