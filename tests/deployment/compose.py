"""docker-compose.yml as Compose sees it, beside a .env that was made as env.example tells."""

import base64
import io
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / "env.example"
DOCUMENTATION = ROOT / "docs" / "production.md"

_TO_FILL_IN = re.compile(r"^#   (?P<how>.+)\n(?P<name>\w+)=$", re.MULTILINE)
_VARIABLE = re.compile(r"\$(?:\{(?P<name>\w+):\?[^}]+\}|.?)")


def made_dotenv() -> dict[str, str]:
    """The variables of an operator who did what env.example says."""
    filled_in = _TO_FILL_IN.sub(lambda line: f"{line['name']}={_made(line['how'])}", ENV_EXAMPLE.read_text())
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(filled_in)).items()}


def services(dotenv: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services with the variables of `dotenv` put in.

    Raises:
        LookupError: a variable is unset or empty, which ends Compose too.
    """
    return dict(_interpolated(yaml.safe_load(COMPOSE_FILE.read_text()), dotenv)["services"])


def used_variables(text: str) -> set[str]:
    """The variables that Compose would look up for `text`."""
    return {_name(variable) for variable in _VARIABLE.finditer(text)}


def own_services() -> list[str]:
    """The services that run this repository's image."""
    return [name for name, service in services(made_dotenv()).items() if "build" in service]


def documented(language: str) -> str:
    """The one block in `language` of the documentation of production."""
    (block,) = re.findall(rf"```{language}\n(.+?)```", DOCUMENTATION.read_text(), re.DOTALL)
    return str(block)


def _made(how: str) -> str:
    match how.split():
        case ["openssl", "rand", "-hex", size]:
            return secrets.token_hex(int(size))
        case ["openssl", "rand", "-base64", size]:
            return base64.b64encode(secrets.token_bytes(int(size))).decode()
        case _:
            return how


def _interpolated(node: Any, dotenv: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _interpolated(value, dotenv) for key, value in node.items()}
    if isinstance(node, list):
        return [_interpolated(value, dotenv) for value in node]
    if isinstance(node, str):
        return _VARIABLE.sub(lambda variable: _value(_name(variable), dotenv), node)
    return node


def _name(variable: re.Match[str]) -> str:
    if variable["name"] is None:
        raise ValueError(f"{variable[0]}: a variable is written ${{NAME:?message}} in {COMPOSE_FILE.name}")
    return variable["name"]


def _value(name: str, dotenv: Mapping[str, str]) -> str:
    if not dotenv.get(name):
        raise LookupError(name)
    return dotenv[name]
