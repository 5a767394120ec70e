"""Which room of the package may know which: each only those below it in this list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

PACKAGE = ROOT / "alarmdigest"
# From the command line down to what knows nobody. `alarmdigest` itself holds the version only.
ROOMS = (
    *("cli", "connect", "process", "observability", "pipeline", "replication", "store"),
    *("state", "settings", "nats", "wire", "http", "runtime", "_ext"),
)


def imports_of(file: Path) -> Iterator[str]:
    """The modules of ours that a file names, without `alarmdigest.`, in functions as well."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written out"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("alarmdigest."):
                yield name.removeprefix("alarmdigest.")


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def upwards(file: Path, rooms: tuple[str, ...]) -> list[str]:
    """What a file of one of these rooms imports of those above it."""
    place = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    found = []
    for name in imports_of(file):
        here, there = room_of(place, rooms), room_of(name, rooms)
        if here and there and rooms.index(there) < rooms.index(here):
            found.append(f"{place} imports {name}")
    return found


def room_of(module: str, rooms: tuple[str, ...]) -> str:
    inside = [room for room in rooms if module == room or module.startswith(room + ".")]
    return max(inside, key=len, default="")


def test_every_file_lies_in_a_room() -> None:
    outside = {
        file.name
        for file in files()
        if not room_of(".".join(file.relative_to(PACKAGE).with_suffix("").parts), ROOMS)
    }
    assert outside == {"__init__.py", "__main__.py"}


def test_no_room_knows_one_above_it() -> None:
    assert [line for file in files() for line in upwards(file, ROOMS)] == []


def test_what_connects_the_service_touches_it_only_through_nats() -> None:
    service = ("observability", "pipeline", "replication", "store", "state")
    inside = [file for file in files() if file.is_relative_to(PACKAGE / "connect")]
    assert inside
    known = {room_of(name, ROOMS) for file in inside for name in imports_of(file)}
    assert not known & {*service}, known
    others = [file for file in files() if file not in inside and "cli" not in file.parts]
    assert not [file for file in others for name in imports_of(file) if name.startswith("connect.")]


def test_the_look_finds_what_it_looks_for() -> None:
    """Else the one above could not fail."""
    assert upwards(PACKAGE / "cli/main.py", tuple(reversed(ROOMS)))


def test_modules_are_short_and_rooms_have_no_circle_of_modules() -> None:
    lengths = sorted(
        len(file.read_text("utf-8").splitlines()) for file in files() if file.name != "__init__.py"
    )
    assert lengths[len(lengths) // 2] <= 150
    assert lengths[-1] <= 400
    known = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files()}
    needs = {
        module: {name if name in known else name.rpartition(".")[0] for name in imports_of(file)}
        & known.keys()
        for module, file in known.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for needed in sorted(needs[module] - {module}):
                visit(needed, (*way, module))
            done.add(module)

    for module in sorted(known):
        visit(module, ())
