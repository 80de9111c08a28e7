"""The OpenID Connect issuer with which people sign in: authorization code, with PKCE.

The issuer says who a person is, and a claim of its ID token what the person may do (OpenID Connect Core 1.0,
3.1). Of what it sends, only a refresh token is kept, with which it is asked later whether the person may
still sign in (12).
"""

import hmac
import json
import logging
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from time import monotonic
from typing import Any, Self
from urllib.parse import quote_plus, urlencode, urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from jwt.utils import base64url_encode

from api.http.problems import ProblemError
from api.security.oidc import INVALID, IssuerKeys, IssuerTokens, discovery, document, issuer_client
from ods.observability.logs import fault_name
from ods.registry.clients.credentials import LONGEST_CLIENT_TEXT, PERSON_PREFIX, ClientScope
from ods.registry.storage.rules import printable
from ods.settings.settings import ServiceSettings, Settings, uses_tls

_FRESH_SECONDS = 600
"""How old the discovery document may be."""
_LONGEST_NAME = 100
_WORD = re.compile("[a-z_]{1,40}")
_BASIC = "client_secret_basic"

_logger = logging.getLogger(__name__)


class IssuerAwayError(Exception):
    """The issuer cannot be reached, or does not answer as OpenID Connect says."""


class NotIdentifiedError(Exception):
    """The issuer has not said who the person is, or what it has said is not valid."""


@dataclass(frozen=True)
class Renewal:
    """With what the issuer is asked whether a person may still sign in.

    Attributes:
        subject: what the issuer calls the person for good.
        token: the refresh token.
    """

    subject: str
    token: str


@dataclass(frozen=True)
class Renewed:
    """A person who may still sign in.

    Attributes:
        values: what the configured claim has now; None if the issuer says nothing of it.
        renewal: with what it is asked the next time.
    """

    values: frozenset[str] | None
    renewal: Renewal


@dataclass(frozen=True)
class Person:
    """A person whom the issuer has identified.

    Attributes:
        name: in the audit trail; it begins with `oidc:` and has what the issuer calls the person for good.
        values: what the configured claim has.
        renewal: with what the issuer is asked later; None if it has sent no refresh token.
    """

    name: str
    values: frozenset[str]
    renewal: Renewal | None = None

    @classmethod
    def of(cls, claims: dict[str, Any], claim: str, token: str | None = None) -> Self:
        """The person whom the claims of an ID token name.

        Args:
            claims: the claims.
            claim: the one that says what the person may do.
            token: the refresh token that was sent with them.
        """
        subject, called = printable(claims["sub"]), claims.get("preferred_username") or claims.get("email")
        name = f"{PERSON_PREFIX}{subject}"
        # What a person is called may change, or be another's tomorrow.
        if isinstance(called, str) and called != claims["sub"]:
            readable = f"{PERSON_PREFIX}{printable(called)[:_LONGEST_NAME]} ({subject})"
            name = readable if len(readable) <= LONGEST_CLIENT_TEXT else name
        renewal = Renewal(claims["sub"], token) if token else None
        return cls(name[:LONGEST_CLIENT_TEXT], _values_of(claims, claim), renewal)


@dataclass(frozen=True)
class Exchange:
    """What ties the answer of the issuer to the browser that has asked.

    Attributes:
        back: the address of the console that the issuer sends the browser to.
        state: what comes back in the query.
        nonce: what comes back in the ID token.
        verifier: what proves at the token endpoint that the code was asked for here.
    """

    back: str
    state: str
    nonce: str
    verifier: str

    @classmethod
    def of(cls, back: str, state: str, secret: str) -> Self:
        """The exchange of the browser with this secret, from which nonce and verifier are made."""
        return cls(back, state, _derived(secret, f"nonce {state}"), _derived(secret, f"verifier {state}"))


class SignInIssuer:
    """The issuer that is configured.

    Args:
        settings: how the console is known to it.
        address: its address, as `iss` in its tokens.
    """

    def __init__(self, settings: ServiceSettings, address: str) -> None:
        self._settings = settings
        self._address = address
        self._tokens = IssuerTokens(
            IssuerKeys(address, None, insecure=settings.oidc_insecure),
            address,
            settings.console_oidc_client_id,
        )
        self._discovered: tuple[float, dict[str, Any]] | None = None

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Self | None:
        """The issuer; None if none is configured."""
        return None if settings.console_oidc_issuer is None else cls(settings, settings.console_oidc_issuer)

    @property
    def name(self) -> str:
        """What people call it: its host."""
        return urlsplit(self._address).hostname or self._address

    async def sign_in_url(self, exchange: Exchange, *, again: bool) -> str:
        """The address at which a person signs in.

        Args:
            exchange: what ties the answer to the browser.
            again: whether a person who is signed in at the issuer must prove there again who it is.

        Raises:
            IssuerAwayError: the issuer does not say it.
        """
        endpoint = await self._endpoint("authorization_endpoint")
        challenge = base64url_encode(sha256(exchange.verifier.encode()).digest()).decode()
        return _with_query(
            endpoint,
            response_type="code",
            client_id=self._settings.console_oidc_client_id,
            redirect_uri=exchange.back,
            scope=self._settings.console_oidc_scopes,
            state=exchange.state,
            nonce=exchange.nonce,
            code_challenge=challenge,
            code_challenge_method="S256",
            **({"prompt": "login"} if again else {}),
        )

    async def sign_out_url(self, back: str) -> str | None:
        """The address at which a person signs out of the issuer as well; None if it has none, or is away.

        Args:
            back: the address of the console that the issuer sends the browser to afterwards.
        """
        try:
            if "end_session_endpoint" not in await self._discovery():
                return None
            endpoint = await self._endpoint("end_session_endpoint")
        except IssuerAwayError:
            return None
        client = self._settings.console_oidc_client_id
        return _with_query(endpoint, client_id=client, post_logout_redirect_uri=back)

    def require_code(self, code: str, error: str) -> None:
        """Go on if the issuer has sent a code.

        Args:
            code: the code, or an empty text.
            error: why there is none, in a word of OAuth 2.0; any text of the browser's.

        Raises:
            NotIdentifiedError: it has not.
        """
        if error or not code:
            reason = error if _WORD.fullmatch(error) else "no word of OAuth 2.0"
            raise self._not_identified(f"it sends no code, but {reason}")

    async def identify(self, code: str, exchange: Exchange) -> Person:
        """The person for whom the issuer has given the code.

        Raises:
            IssuerAwayError: the issuer cannot be asked.
            NotIdentifiedError: it refuses the code, or its ID token is not valid, or for another exchange.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": exchange.back,
            "code_verifier": exchange.verifier,
        }
        answer = await self._tokens_for("the code", form)
        claims = await self._claims(str(answer.get("id_token")))
        nonce = str(claims.get("nonce", ""))
        if not hmac.compare_digest(nonce.encode(errors="replace"), exchange.nonce.encode()):
            raise self._not_identified("the nonce of its ID token is another one's")
        return Person.of(claims, self._settings.console_oidc_claim, _refresh_token(answer))

    async def renew(self, renewal: Renewal) -> Renewed:
        """What the person may do now, if the issuer would still let it sign in.

        Raises:
            IssuerAwayError: the issuer cannot be asked.
            NotIdentifiedError: it refuses the refresh token, or its ID token is not valid, or of another one.
        """
        form = {"grant_type": "refresh_token", "refresh_token": renewal.token}
        answer = await self._tokens_for("a refresh token", form)
        values = None
        if "id_token" in answer:
            claims = await self._claims(str(answer["id_token"]))
            if claims["sub"] != renewal.subject:
                raise self._not_identified("its ID token is another person's")
            values = _values_of(claims, self._settings.console_oidc_claim)
        return Renewed(values, Renewal(renewal.subject, _refresh_token(answer) or renewal.token))

    async def _claims(self, token: str) -> dict[str, Any]:
        """What an ID token says that is for this console."""
        try:
            claims = await self._tokens.claims(token)
        except ProblemError:
            raise IssuerAwayError from None
        except INVALID as error:
            raise self._not_identified(f"its ID token is not valid: {fault_name(error)}") from None
        client = self._settings.console_oidc_client_id
        if claims.get("azp", client) != client:
            raise self._not_identified("its ID token was given to another client")
        return claims

    async def _tokens_for(self, what: str, form: dict[str, str]) -> dict[str, Any]:
        """What the token endpoint answers.

        Args:
            what: is sent to it, in words.
            form: what is sent, but for what says who the console is.
        """
        endpoint = await self._endpoint("token_endpoint")
        client, secret = self._settings.console_oidc_client_id, self._settings.console_oidc_client_secret
        auth = None
        if secret is not None and _BASIC in await self._methods():
            auth = (quote_plus(client), quote_plus(secret.get_secret_value()))
        else:
            form["client_id"] = client
            if secret is not None:
                form["client_secret"] = secret.get_secret_value()
        try:
            async with issuer_client() as asking:
                return await document(
                    asking, endpoint, insecure=self._settings.oidc_insecure, form=form, auth=auth
                )
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
                raise self._away(error) from None
            raise self._not_identified(f"it answers {status} to {what}") from None
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the issuer, there is no token
            raise self._away(error) from None

    async def _methods(self) -> list[str]:
        """How the console may say its secret; OpenID Connect Discovery has the default."""
        found = (await self._discovery()).get("token_endpoint_auth_methods_supported", [_BASIC])
        return found if isinstance(found, list) else [_BASIC]

    async def _endpoint(self, name: str) -> str:
        address = str((await self._discovery()).get(name))
        insecure = self._settings.oidc_insecure and address.lower().startswith("http://")
        if not (insecure or uses_tls(address)):
            _logger.warning("The discovery document of %s has no %s that uses TLS.", self._address, name)
            raise IssuerAwayError
        return address

    async def _discovery(self) -> dict[str, Any]:
        if self._discovered is None or monotonic() - self._discovered[0] > _FRESH_SECONDS:
            try:
                async with issuer_client() as client:
                    insecure = self._settings.oidc_insecure
                    found = await discovery(client, self._address, insecure=insecure)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with the issuer, it cannot be used
                raise self._away(error) from None
            self._discovered = monotonic(), found
        return self._discovered[1]

    def _away(self, error: Exception) -> IssuerAwayError:
        _logger.warning("%s, with which people sign in, is away: %s", self._address, fault_name(error))
        return IssuerAwayError()

    def _not_identified(self, reason: str) -> NotIdentifiedError:
        _logger.warning("%s has identified no person: %s", self._address, reason)
        return NotIdentifiedError()


def scope_of(settings: Settings, values: AbstractSet[str]) -> ClientScope | None:
    """What a person may do in a tenant with these values of the claim; None if the person may not enter."""
    if not values.isdisjoint(settings.full_access_values):
        return ClientScope.FULL_ACCESS
    if not values.isdisjoint(settings.read_only_values):
        return ClientScope.READ_ONLY
    return None


def rules_of(settings: Settings) -> UUID:
    """Another one when other people may enter a tenant, or do something else there."""
    return uuid5(
        NAMESPACE_URL,
        json.dumps(
            [
                settings.console_oidc_issuer,
                settings.console_oidc_client_id,
                settings.console_oidc_claim,
                settings.full_access_values,
                settings.read_only_values,
            ]
        ),
    )


def _values_of(claims: dict[str, Any], claim: str) -> frozenset[str]:
    found = claims.get(claim)
    values = found if isinstance(found, list) else [found]
    return frozenset(value for value in values if isinstance(value, str))


def _refresh_token(answer: dict[str, Any]) -> str | None:
    token = answer.get("refresh_token")
    return token if isinstance(token, str) else None


def _with_query(address: str, **fields: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(fields)}"


def _derived(secret: str, purpose: str) -> str:
    """A text that takes the secret to make, of characters that a verifier may have (RFC 7636, 4.1)."""
    return base64url_encode(hmac.digest(secret.encode(), purpose.encode(), "sha256")).decode()
