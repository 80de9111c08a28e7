"""nginx with deploy/proxy/nginx.conf, of which only addresses, certificate and prefix are replaced."""

import os
import shutil
import subprocess
import tempfile
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded.polling import wait_until
from embedded.ports import free_port, is_taken
from programs import process
from programs.process import Command
from tests import debian

FOLDER = Path(__file__).parents[1] / "deploy" / "proxy"
_SECONDS = 20
_MAIN = """
daemon off;
pid {folder}/pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
"""What else nginx needs: everything in a folder of the test's own."""


@dataclass(frozen=True)
class Certificate:
    """A certificate of 127.0.0.1 that it has signed itself, and its key."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make one in `folder`."""
        made = cls(folder / "proxy.pem", folder / "proxy.key")
        words = ("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        files = ("-keyout", str(made.key), "-out", str(made.certificate))
        name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
        subprocess.run(["openssl", *words, *files, *name], check=True, capture_output=True)  # noqa: S603, S607 - the system's own program
        return made


class Nginx:
    """Between clients and the two services; as an asynchronous context manager it is started and stopped.

    Args:
        ods: the address of this service, as `http://127.0.0.1:8000`.
        admin_api: that of the Admin API.
        prefix: below which both are, as `/edfi`.
    """

    def __init__(self, ods: str, admin_api: str, prefix: str = "") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ods-nginx-", dir="/var/tmp"))
        self._tls = free_port()
        self._plain = free_port({self._tls})
        self.url = f"https://127.0.0.1:{self._tls}{prefix}"
        self.plain_url = f"http://127.0.0.1:{self._plain}{prefix}"
        self.certificate = Certificate.make(self._folder)
        self._process: Process
        self._configure(ods, admin_api, prefix)

    async def __aenter__(self) -> Self:
        self._process = await process.start(self._command(), self._folder / "log")
        await wait_until(self._listens, _SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await process.stop(self._process, self._command())
        self.remove()

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self._folder)

    def examine(self) -> str:
        """What `nginx -t` says of the configuration."""
        words = (*self._command().arguments, "-t")
        done = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - Debian's program
        return done.stderr

    def _configure(self, ods: str, admin_api: str, prefix: str) -> None:
        site = (FOLDER / "nginx.conf").read_text()
        for shipped, here in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self._tls} ssl;"),
            ("listen 80;", f"listen 127.0.0.1:{self._plain};"),
            ("/etc/ods/tls/proxy.pem", str(self.certificate.certificate)),
            ("/etc/ods/tls/proxy.key", str(self.certificate.key)),
            ("set $ods http://api:8000;", f"set $ods {ods};"),
            ("set $admin_api http://admin-api:80;", f"set $admin_api {admin_api};"),
            *((("# ~*^/edfi(", f"~*^{prefix}("),) if prefix else ()),
        ):
            assert site.count(shipped) == 1, shipped
            site = site.replace(shipped, here)
        (self._folder / "site.conf").write_text(site)
        # Its workers take another account if they can, which may not enter the folder.
        user = "user root root;" if os.getuid() == 0 else ""
        (self._folder / "nginx.conf").write_text(_MAIN.format(folder=self._folder, user=user))

    def _command(self) -> Command:
        arguments = (debian.program("nginx"), "-c", str(self._folder / "nginx.conf"))
        return Command("nginx", arguments, {})

    async def _listens(self) -> bool:
        assert self._process.returncode is None, (self._folder / "log").read_text()
        return is_taken(self._tls)
