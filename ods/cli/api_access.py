"""Which API a command calls, and as which client."""

import os
from pathlib import Path

from ods.cli.client import AdminApi
from ods.cli.options import require_no_folder, require_no_other_tenant
from ods.embedded.data_folder import DataFolder
from ods.embedded.errors import CommandError
from ods.settings.secret_files import UnreadableSecretError, from_environment

_CLIENT_SECRET = "ODS_CLIENT_SECRET"  # noqa: S105 - the name of a variable


def connect(api_url: str | None, data_dir: Path) -> AdminApi:
    """The API at `api_url`, or else that of the stack that runs in `data_dir`.

    The client is that of ODS_CLIENT_ID and ODS_CLIENT_SECRET, or else, for the API of that stack, the one
    that the stack has registered.

    Raises:
        CommandError: there is no address or no client, the address is none of HTTP, both name an API and not
            the same one, or ODS_CLIENT_SECRET_FILE cannot be used; or another tenant is named than the API's
            only one.
    """
    folder = DataFolder(data_dir)
    stack = folder.running_stack()
    url = (api_url or (stack["api"]["url"] if stack else "")).rstrip("/")
    if stack and url != stack["api"]["url"]:
        stack = None  # another API shall not see its secret
    if api_url and stack is None:
        require_no_folder(data_dir, f"ODS_API_URL or --api-url the API at {url}")
    client_id = os.environ.get("ODS_CLIENT_ID") or (stack["client"]["id"] if stack else None)
    client_secret = _client_secret() or (stack["client"]["secret"] if stack else None)
    if not url:
        raise CommandError(f"{folder.why_no_stack()} --api-url or ODS_API_URL name another API.")
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"The address of an API begins with http:// or https://, unlike {url}.")
    if client_id is None or client_secret is None:
        raise CommandError(f"Set ODS_CLIENT_ID and ODS_CLIENT_SECRET to those of a client of {url}.")
    token_url, tenant = os.environ.get("ODS_TOKEN_URL"), os.environ.get("ODS_TENANT")
    api = AdminApi(url, client_id, client_secret, token_url, tenant)
    if tenant and api.has_one_tenant():  # it would not look at the name
        require_no_other_tenant(f"The API at {url}")
    return api


def _client_secret() -> str | None:
    """The value of ODS_CLIENT_SECRET, or the content of the file that ODS_CLIENT_SECRET_FILE names.

    Raises:
        CommandError: both variables are set, or the file holds no secret.
    """
    try:
        secret = from_environment(_CLIENT_SECRET)
    except UnreadableSecretError as error:
        raise CommandError(f"{_CLIENT_SECRET}_FILE: {error}.") from None
    return secret.get_secret_value() if secret else os.environ.get(_CLIENT_SECRET)
