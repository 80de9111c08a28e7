"""`make vulnerabilities`: known vulnerabilities of what requirements.lock pins, as pip-audit finds them.

pip-audit asks OSV's service. With a dump of OSV, it asks this process instead, which answers from the dump:
nothing leaves the machine.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.utils import canonicalize_name
from packaging.version import Version

_LOCK = Path(__file__).parents[1] / "requirements.lock"
_NO_DUMP = """There is no all.zip in {folder}.
Where there is a network, get OSV's dump of the ecosystem PyPI (https://google.github.io/osv.dev/data/).
Bring the file all.zip here, and name its folder: make vulnerabilities OSV=FOLDER"""
_NO_SERVICE = "If OSV's service cannot be reached, bring a dump of it: make vulnerabilities OSV=FOLDER\n"

Advisory = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of pip-audit: 0 if there is no known vulnerability."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--osv", type=Path, help="the folder with OSV's dump, all.zip")
    parser.add_argument("--lock", type=Path, default=_LOCK)
    options = parser.parse_args(arguments)
    if options.osv is None:
        code = _audit(options.lock)
        sys.stderr.write(_NO_SERVICE if code else "")
        return code
    dump = options.osv / "all.zip"
    if not dump.is_file():
        raise SystemExit(_NO_DUMP.format(folder=options.osv))
    advisories, newest = _read(dump)
    sys.stdout.write(f"The newest entry of the dump is of {newest}: what was found later is not in it.\n")
    sys.stdout.flush()  # before pip-audit writes
    with _serving(advisories) as url:
        return _audit(options.lock, "--osv-url", url)


def _audit(lock: Path, *options: str) -> int:
    command = (sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--strict")
    service = ("--vulnerability-service", "osv", "--progress-spinner", "off")
    return subprocess.run([*command, *service, *options], check=False).returncode  # noqa: S603 - our own command


def _read(dump: Path) -> tuple[Mapping[str, list[Advisory]], str]:
    """The advisories of each package, and when the newest was changed."""
    found: dict[str, list[Advisory]] = defaultdict(list)
    newest = ""
    with ZipFile(dump) as archive:
        for name in archive.namelist():
            advisory = json.loads(archive.read(name))
            newest = max(newest, advisory["modified"])
            for package in {affected["package"]["name"] for affected in _of_pypi(advisory)}:
                found[canonicalize_name(package)].append(advisory)
    return found, newest


def _of_pypi(advisory: Advisory) -> list[dict[str, Any]]:
    return [one for one in advisory.get("affected", ()) if one["package"]["ecosystem"] == "PyPI"]


def is_affected(advisory: Advisory, package: str, version: str) -> bool:
    """Whether the advisory names this version, or a range that it is in: OSV's own rule."""
    return any(
        version in affected.get("versions", ())
        or any(_is_within(one["events"], Version(version)) for one in _ranges(affected))
        for affected in _of_pypi(advisory)
        if canonicalize_name(affected["package"]["name"]) == package
    )


def _ranges(affected: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of versions; others are of commits."""
    return [one for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM"]


def _is_within(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    is_within = False
    for event in sorted(events, key=lambda one: Version(next(iter(one.values())))):
        ((kind, at),) = event.items()
        match kind:
            case "introduced":
                is_within |= version >= Version(at)
            case "fixed":
                is_within &= version < Version(at)
            case "last_affected":
                is_within &= version <= Version(at)
            case _:
                pass  # "limit" says which branch of a history is meant, and is not used for packages of PyPI
    return is_within


@contextmanager
def _serving(advisories: Mapping[str, list[Advisory]]) -> Iterator[str]:
    """The address at which queries are answered as OSV's service answers them."""

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package, version = canonicalize_name(query["package"]["name"]), query["version"]
            known = [one for one in advisories.get(package, ()) if is_affected(one, package, version)]
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing of each query."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
