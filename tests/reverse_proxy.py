"""nginx and Caddy with the files in deploy/proxy, with other addresses, certificate and prefix."""

import os
import subprocess
from abc import ABC, abstractmethod
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from ssl import SSLContext, create_default_context

from ods.embedded.polling import wait_until
from ods.embedded.ports import free_ports, is_taken
from ods.programs import process
from ods.programs.process import Command
from tests import debian

FOLDER = Path(__file__).parents[1] / "deploy" / "proxy"
HOST = "127.0.0.1"
_SECONDS = 20


class ReverseProxy(ABC):
    """Between clients and the two services, with a certificate that it has signed itself.

    Args:
        folder: of its own, empty.
        prefix: below which both services are, as `/edfi`.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self._folder = folder
        self.prefix = prefix
        self._tls, self._plain = free_ports(2)
        self.url = f"https://{HOST}:{self._tls}{prefix}"
        self.plain_url = f"http://{HOST}:{self._plain}{prefix}"
        self._certificate, self._key = folder / "proxy.pem", folder / "proxy.key"
        _make_certificate(self._certificate, self._key)

    @property
    def trust(self) -> SSLContext:
        """With which clients believe its certificate, and no other."""
        return create_default_context(cafile=str(self._certificate))

    @abstractmethod
    def configure(self, ods: str, admin_api: str) -> None:
        """Write its configuration, for the two services at these addresses, as `http://127.0.0.1:8000`."""

    @abstractmethod
    def examine(self) -> str:
        """What the program itself says of the configuration."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it until the end of the block."""
        started = await process.start(self.command(), self._log)
        try:
            await wait_until(lambda: self._listens(started), _SECONDS)
            yield
        finally:
            await process.stop(started, self.command())

    @abstractmethod
    def command(self) -> Command:
        """The program."""

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    async def _listens(self, started: Process) -> bool:
        assert started.returncode is None, self._log.read_text()
        return is_taken(self._tls)

    def _said(self, *words: str) -> str:
        """What the command says with further words, which ends well."""
        command = self.command()
        done = subprocess.run(  # noqa: S603 - Debian's program
            words, check=False, capture_output=True, text=True, env=dict(command.environment)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


class Nginx(ReverseProxy):
    """nginx."""

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

    def configure(self, ods: str, admin_api: str) -> None:
        """Write the site, and what else nginx needs: everything in the folder."""
        site = _replaced(
            (FOLDER / "nginx.conf").read_text(),
            {
                "listen 443 ssl;": f"listen {HOST}:{self._tls} ssl;",
                "listen 80;": f"listen {HOST}:{self._plain};",
                "/etc/ods/tls/proxy.pem": str(self._certificate),
                "/etc/ods/tls/proxy.key": str(self._key),
                "set $ods http://api:8000;": f"set $ods {ods};",
                "set $admin_api http://admin-api:80;": f"set $admin_api {admin_api};",
                **({f"# ~*^/edfi{end}": f"~*^{self.prefix}{end}" for end in "$("} if self.prefix else {}),
            },
        )
        (self._folder / "site.conf").write_text(site)
        # Its processes take another account if they can, which may not enter the folder.
        user = "user root root;" if os.getuid() == 0 else ""
        main = self._MAIN.format(folder=self._folder, user=user)
        (self._folder / "nginx.conf").write_text(main)

    def command(self) -> Command:
        """It reads the file in the folder."""
        arguments = (debian.program("nginx"), "-c", str(self._folder / "nginx.conf"))
        return Command("nginx", arguments, {})

    def examine(self) -> str:
        """`nginx -t`."""
        return self._said(*self.command().arguments, "-t")


class Caddy(ReverseProxy):
    """Caddy."""

    def configure(self, ods: str, admin_api: str) -> None:
        """Write the file."""
        text = (FOLDER / "Caddyfile").read_text()
        if self.prefix:
            matchers, rest = text.split("\n\t@ambiguous ")
            matchers = matchers.replace(" /", f" {self.prefix}/")
            matchers = matchers.replace("\t\tpath ", f"\t\tpath {self.prefix} ", 1)
            text = f"{matchers}\n\t@ambiguous {rest}"
        site = _replaced(
            text,
            {
                "\n{\n": "\n{\n\tadmin off\n",
                "\nods.example.org {\n": (
                    f"\nhttps://{HOST}:{self._tls} {{\n\ttls {self._certificate} {self._key}\n"
                ),
                "\nhttp://ods.example.org {\n": f"\nhttp://{HOST}:{self._plain} {{\n",
                "reverse_proxy admin-api:80 {": f"reverse_proxy {admin_api.removeprefix('http://')} {{",
                "reverse_proxy api:8000 {": f"reverse_proxy {ods.removeprefix('http://')} {{",
            },
        )
        (self._folder / "Caddyfile").write_text(site)

    def command(self) -> Command:
        """It reads the file in the folder, and keeps there what it keeps."""
        return Command("caddy", self._words("run"), {"HOME": str(self._folder), "PATH": os.defpath})

    def examine(self) -> str:
        """`caddy validate`."""
        return self._said(*self._words("validate"))

    def _words(self, verb: str) -> tuple[str, ...]:
        return (
            *(debian.program("caddy"), verb),
            *("--adapter", "caddyfile", "--config", str(self._folder / "Caddyfile")),
        )


def _replaced(text: str, changes: dict[str, str]) -> str:
    """`text` with each of these, which it has exactly once, replaced."""
    for shipped, here in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    return text


def _make_certificate(certificate: Path, key: Path) -> None:
    words = ("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2")
    files = ("-keyout", str(key), "-out", str(certificate))
    name = ("-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}")
    subprocess.run(["openssl", *words, *files, *name], check=True, capture_output=True)  # noqa: S603, S607 - the system's own program
