"""`python -m tests.alerts.docker compose …`: hands its words to the site that runs, and prints the answer."""

import os
import shlex
import socket
import sys

SOCKET_VARIABLE = "ODS_TESTS_DOCKER"


def main(words: list[str]) -> int:
    """Returns the exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET_VARIABLE])
        connection.sendall(f"{shlex.join(words[1:])}\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
    code, _, text = answer.partition("\n")
    sys.stdout.write(text)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
