import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ods.embedded.data_folder import DataFolder, Secrets, StackFile
from ods.embedded.errors import CommandError
from ods.embedded.ports import free_port, free_ports, require_free

_ANOTHER_USER = 65_534
STACK = StackFile(
    api={"url": "http://127.0.0.1:1", "pid": 1},
    worker={"pid": 2},
    temporal={"address": "127.0.0.1:3", "ui": "http://127.0.0.1:4", "namespace": "default", "pid": 3},
    postgres={"admin_dsn": "postgresql://a", "master_dsn": "postgresql://b", "pid": 4},
    backups={"url": "file:///e"},
    client={"id": "c", "secret": "d"},
    settings={},
)


def test_second_stack_is_refused_when_one_holds_the_folder(tmp_path: Path) -> None:
    refused = pytest.raises(CommandError, match=f"already runs .*process {os.getpid()}.*--data-dir")
    with DataFolder(tmp_path).locked(), refused, DataFolder(tmp_path).locked():
        pytest.fail("two stacks hold the folder")
    with DataFolder(tmp_path).locked():
        pass


def test_stack_is_found_only_while_it_runs_when_its_file_is_left_behind(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.locked():
        folder.publish(STACK)
        assert folder.running_stack() == STACK
    assert json.loads(folder.stack_file.read_text()) == STACK
    assert folder.running_stack() is None


def test_no_stack_is_found_when_the_folder_does_not_exist(tmp_path: Path) -> None:
    assert DataFolder(tmp_path / "none").running_stack() is None
    assert not (tmp_path / "none").exists()


def test_start_is_proposed_only_while_no_stack_is_starting(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.locked():
        assert folder.why_no_stack().startswith(f"The stack in {tmp_path} does not serve yet; wait")
    assert folder.why_no_stack() == f"No stack serves in {tmp_path}; `ods up` starts one."


@contextmanager
def without_rights() -> Iterator[None]:
    """Be a user whom the modes of files bind, as they do not bind root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_ANOTHER_USER)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_owner_is_named_when_the_folder_belongs_to_another_user() -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = DataFolder(Path(path))
        folder.path.chmod(0o711)
        words = f"belongs to another user .*sudo chown -R .* {path}$"
        with folder.locked():
            folder.publish(STACK)
            folder.stack_file.chmod(0)
            with without_rights(), pytest.raises(CommandError, match=words):
                folder.running_stack()
        (folder.path / "lock").chmod(0)
        with without_rights(), pytest.raises(CommandError, match=words), folder.locked():
            pytest.fail("another user's folder is held")


def test_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal; from ods.embedded.data_folder import DataFolder\n"
        f"with DataFolder(pathlib.Path({str(tmp_path)!r})).locked(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9  # noqa: S603 - our own script
    with DataFolder(tmp_path).locked():
        pass


def test_files_with_secrets_are_private_when_written(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    secrets = Secrets.generate(5432)
    folder.store_secrets(secrets)
    folder.publish(STACK)
    assert folder.secrets() == secrets
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.json")} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_client_secret_satisfies_the_api_when_generated() -> None:
    secret = Secrets.generate(1).client_secret
    assert 32 <= len(secret) <= 128
    assert all(re.search(kind, secret) for kind in ("[a-z]", "[A-Z]", "[0-9]", r"[^a-zA-Z0-9]"))


def test_secrets_differ_when_generated_twice() -> None:
    first, second = Secrets.generate(1), Secrets.generate(1)
    assert first.encryption_key != second.encryption_key
    assert first.superuser_password not in (second.superuser_password, first.service_password)


def test_folder_is_refused_when_a_file_is_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="cannot be used as data folder"):
        DataFolder(tmp_path / "file").create()


def test_port_is_refused_when_two_options_name_it() -> None:
    port = free_port()
    with pytest.raises(CommandError, match=f"--api-port and --temporal-port are both {port}"):
        require_free({"--api-port": port, "--temporal-port": port})


def test_secrets_of_a_later_release_are_kept_when_an_earlier_one_starts_again(tmp_path: Path) -> None:
    folder, secrets = DataFolder(tmp_path), Secrets.generate(5432)
    folder.store_secrets(secrets)
    file = tmp_path / "secrets.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "another_password": "of the later release"}))
    assert folder.secrets() == secrets
    folder.store_secrets(replace(secrets, postgres_port=5433))
    assert json.loads(file.read_text())["another_password"] == "of the later release"
    found = folder.secrets()
    assert found is not None
    assert found.postgres_port == 5433


@pytest.mark.parametrize("data", ["postgres/cluster", "existing-server.json"])
def test_no_secrets_are_made_beside_data_that_were_made_with_others(tmp_path: Path, data: str) -> None:
    (tmp_path / data).mkdir(parents=True)
    with pytest.raises(CommandError, match=r"secrets\.json is missing; restore it"):
        DataFolder(tmp_path).secrets()


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_damage_is_reported_when_the_secrets_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(CommandError, match="damaged; restore it"):
        DataFolder(tmp_path).secrets()


def test_ports_are_different_when_several_are_asked_for() -> None:
    assert len(set(free_ports(300))) == 300


def test_port_is_kept_for_a_server_when_it_was_asked_for() -> None:
    port = free_port()
    with socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        assert port < client.getsockname()[1]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    require_free({"--api-port": port})
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_port_is_none_of_those_that_are_spoken_for_when_one_is_asked_for() -> None:
    even = range(0, 65_536, 2)
    assert all(free_port(besides=even) % 2 for _ in range(20))
