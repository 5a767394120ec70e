"""The package as users get it: built from its sdist, in an environment without setuptools, away
from the checkout, with no other nats-server than its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.nats_server import HOST, free_port
from support.paths import ROOT
from support.service import CLEAN_ENVIRONMENT
from support.wait import eventually

from alarmdigest import __version__

# What a checkout holds besides its sources.
LEFT_BEHIND = shutil.ignore_patterns(
    *("build", "dist", "*.egg-info", "*.so", "__pycache__", "alarmdigest-data"),
    *(".git", ".venv", ".*_cache", ".hypothesis", ".benchmarks"),
)
COMPILED = {path.stem for path in (ROOT / "ext").glob("*/*.pyx")}

# The service on another port than everybody's 4222.
SERVICE = """
import sys
import alarmdigest.process.runner
from alarmdigest.cli.main import main
alarmdigest.process.runner.LOCAL_PORT = int(sys.argv[1])
sys.exit(main(["run", "--http", "off"]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """What it says on stdout; fails where its exit code is not 0."""
    done = subprocess.run(
        command, cwd=cwd, env=environment or CLEAN_ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


def run_pip(*arguments: str | Path, python: Path | str, cwd: Path) -> None:
    """Run pip. Where it cannot reach a package index: a skip, but a failure in CI."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=cwd, env=CLEAN_ENVIRONMENT, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"pip finds no package index: {done.stderr}")
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Package:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The sdist of this checkout, and the wheel that pip builds from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    write = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", write, folder, cwd=source)
    [sdist] = folder.glob("*.tar.gz")
    run_pip("wheel", "--no-deps", "--wheel-dir", folder, sdist, python=sys.executable, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return Package(sdist, wheel)


@dataclass(frozen=True)
class Installation:
    """A virtual environment with the wheel in it, and an empty directory to work in."""

    bin: Path
    cwd: Path
    environment: dict[str, str]

    def python(self, program: str, *arguments: str) -> list[str]:
        return [str(self.bin / "python"), "-c", program, *arguments]


@pytest.fixture(scope="module")
def installed(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    programs, cwd, empty = folder / "venv" / "bin", folder / "elsewhere", folder / "empty"
    cwd.mkdir()
    empty.mkdir()
    python = programs / "python"
    run_pip("install", package.wheel, python=python, cwd=cwd)
    # Some interpreters' environments come with it, and pbr asks for it without needing it to run.
    run_pip("uninstall", "--yes", "setuptools", python=python, cwd=cwd)
    environment = {**CLEAN_ENVIRONMENT, "PATH": str(empty)}
    environment.pop("PYTHONPATH", None)
    return Installation(programs, cwd, environment)


def test_the_sdist_holds_every_file_of_the_repository_but_those_of_git(package: Package) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, or there is no git")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    with tarfile.open(package.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert there - names == {".gitignore"}


def test_the_wheel_holds_the_package_and_its_types_and_nothing_else(package: Package) -> None:
    with zipfile.ZipFile(package.wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"alarmdigest", f"alarmdigest-{__version__}.dist-info"}
    assert "alarmdigest/py.typed" in names
    suffixes = {Path(name).suffix for name in names if name.startswith("alarmdigest/")}
    page = {
        path.suffix
        for path in (ROOT / "alarmdigest/observability/page").iterdir()
        if path.is_file()
    }
    assert page == {".py", ".html", ".css", ".js"}
    assert suffixes == page | {".pyi", ".so", ".txt", ".typed"}  # .txt: templates of messages
    templates = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "alarmdigest/connect/deliver/templates").iterdir()
    }
    assert templates
    assert templates <= names
    for suffix in (".pyi", ".so"):
        compiled = {Path(name).name.partition(".")[0] for name in names if name.endswith(suffix)}
        assert compiled == COMPILED
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "alarmdigest").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


@pytest.mark.parametrize("module", ["setuptools", "pkg_resources"])
def test_nothing_of_setuptools_is_there(installed: Installation, module: str) -> None:
    program = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]))"
    command = installed.python(program, module)
    assert run(*command, cwd=installed.cwd, environment=installed.environment) == "None\n"


def test_it_runs_away_from_the_checkout(installed: Installation) -> None:
    alarmdigest = installed.bin / "alarmdigest"
    said = run(alarmdigest, "--version", cwd=installed.cwd, environment=installed.environment)
    assert said == f"alarmdigest {__version__}\n"
    where = run(
        *installed.python("import alarmdigest; print(alarmdigest.__file__)"),
        cwd=installed.cwd,
        environment=installed.environment,
    )
    assert Path(where).is_relative_to(installed.bin.parent)


def test_the_service_works_on_the_server_of_its_own(installed: Installation) -> None:
    port = free_port()
    log = installed.cwd / "service.log"
    with log.open("w") as stderr:
        service = subprocess.Popen(
            installed.python(SERVICE, str(port)),
            cwd=installed.cwd,
            env=installed.environment,
            stderr=stderr,
        )
    try:
        eventually(
            lambda: re.search(r"\bready\b", log.read_text()) or service.poll() is not None,
            timeout=30.0,
            what="ready",
        )
        assert f"started an embedded one at nats://{HOST}:{port}" in log.read_text()
        said = run(
            installed.bin / "alarmdigest",
            "verify",
            "--server",
            f"nats://{HOST}:{port}",
            cwd=installed.cwd,
            environment=installed.environment,
        )
        assert said.endswith("Smoke test passed\n")
        service.send_signal(signal.SIGTERM)
        assert service.wait(30.0) == 0
    except BaseException:
        sys.stderr.write(log.read_text())
        raise
    finally:
        service.terminate()  # a kill would leave its server behind
        service.wait(30.0)
