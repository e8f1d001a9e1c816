"""A real authorization server for tests: Authlib's, on Flask, on loopback, with the quirks that servers have.

In: browsers and token requests. Out: what Authlib answers, bent into a vendor's shape where one is chosen. It keeps what it
gave (`tokens`, `refresh_tokens`), so that tests can end it, and journals every token request (`exchanges`) and bearer (`seen`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, Self
from urllib.parse import urlencode

import httpx
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from flask import Flask, Response, jsonify, request
from werkzeug.serving import WSGIRequestHandler, make_server

Shape = Literal["generic", "github", "slack"]
CLIENT_ID, CLIENT_SECRET = "client-1", "canary-as-client-secret"


class Quiet(WSGIRequestHandler):
    """Says nothing: a URL holds the state."""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass


class Client:
    """What Authlib asks of a registered client."""

    client_id = CLIENT_ID

    def __init__(self, methods: tuple[str, ...]) -> None:
        self._methods = methods

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.endswith("/v1/oauth/callback")

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in self._methods

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token"}


class Code(SimpleNamespace):
    def get_redirect_uri(self) -> str:
        return str(self.redirect_uri)

    def get_scope(self) -> str:
        return str(self.scope)


class Token(SimpleNamespace):
    def get_scope(self) -> str:
        return str(self.scope)

    def check_client(self, client: Client) -> bool:
        return client is not None

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


@dataclass
class OAuthServer:
    """`with OAuthServer() as server:`. `login` is who says yes; `before_answer` is called when tokens were made. `echoes`:
    a refusal repeats all that was sent."""

    shape: Shape = "generic"
    rotates: bool = True
    tells_expiry: bool = True
    gives_refresh: bool = True
    denies: bool = False
    echoes: bool = False
    grants_scopes: str = ""
    login: str = "ada"
    tokens: dict[str, str] = field(default_factory=dict)  # access token -> login
    refresh_tokens: dict[str, Token] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    codes: dict[str, Code] = field(default_factory=dict)
    exchanges: list[dict[str, str]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    before_answer: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        app = Flask("authorization-server")
        app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = self.gives_refresh
        app.config["OAUTH2_TOKEN_EXPIRES_IN"] = {"authorization_code": 3600, "refresh_token": 3600}
        self._server = _authlib(self, app)
        for path, method, view in (
            ("/authorize", "GET", self._authorize),
            ("/token", "POST", self._token),
            ("/revoke", "POST", self._revoke),
            ("/me", "GET", self._me),
        ):
            app.add_url_rule(path, path, view, methods=[method])
        self._http = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    # What tests do.

    def person(self, url: str) -> str:
        """Opens the URL, decides, and ends up at the address that is returned."""
        answer = httpx.get(url, trust_env=False, timeout=60)
        assert answer.has_redirect_location, answer.text
        return str(answer.headers["location"])

    def secrets(self) -> set[str]:
        """Everything that must be seen nowhere but here and at the client."""
        return {CLIENT_SECRET, *self.issued}

    def expire(self) -> None:
        self.tokens.clear()

    # Endpoints.

    def _authorize(self) -> Any:
        assert request.args.get("code_challenge_method") in {"S256", None}
        grant = self._server.get_consent_grant(end_user=None)
        return self._server.create_authorization_response(grant=grant, grant_user=None if self.denies else self.login)

    def _token(self) -> Any:
        self.exchanges.append(dict(request.form))
        answer = self._server.create_token_response()
        self.before_answer()
        return self._bent(answer)

    def _bent(self, answer: Response) -> Response:
        """Into the vendor's shape."""
        said: dict[str, Any] = dict(answer.get_json())
        if "error" in said and self.echoes:
            said["error_description"] = f"{request.get_data(as_text=True)} {dict(request.form)} {request.authorization}"
        if not self.tells_expiry:
            said.pop("expires_in", None)
        if self.shape == "generic":
            return _json(said, answer.status_code)
        if self.shape == "slack":
            said = {"ok": "error" not in said, **said, "scope": str(said.get("scope", "")).replace(" ", ",")}
            return _json(said, 200)
        said = {**said, "scope": str(said.get("scope", "")).replace(" ", ",")} if "error" not in said else said
        if "refresh_token" in said:
            said["refresh_token_expires_in"] = 15811200
        if "application/json" not in request.headers.get("accept", ""):
            return Response(urlencode(said), 200, content_type="application/x-www-form-urlencoded")
        return _json(said, 200)

    def _revoke(self) -> Any:
        return self._server.create_endpoint_response("revocation")

    def _me(self) -> Any:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        if token not in self.tokens:
            return _json({"error": f"invalid_token {token}"}, 401)
        return _json({"login": self.tokens[token]}, 200)


def _json(said: dict[str, Any], status: int) -> Response:
    made: Response = jsonify(said)
    made.status_code = status
    return made


def _code_grant(own: OAuthServer) -> type[grants.AuthorizationCodeGrant]:
    class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

        def save_authorization_code(self, code: str, request: Any) -> None:
            asked = request.payload.data
            own.issued.append(code)
            own.codes[code] = Code(
                code=code,
                redirect_uri=request.payload.redirect_uri,
                scope=own.grants_scopes or (request.payload.scope or "").replace(",", " "),
                user=request.user,
                code_challenge=asked.get("code_challenge"),
                code_challenge_method=asked.get("code_challenge_method"),
            )

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return own.codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            own.codes.pop(authorization_code.code, None)

        def authenticate_user(self, authorization_code: Code) -> str:
            return str(authorization_code.user)

    return CodeGrant


def _refresh_grant(own: OAuthServer) -> type[grants.RefreshTokenGrant]:
    class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")
        INCLUDE_NEW_REFRESH_TOKEN = own.rotates

        def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
            if refresh_token in own.spent:  # somebody has two copies of it: neither may go on
                own.refresh_tokens.clear()
                own.tokens.clear()
            return own.refresh_tokens.get(refresh_token)

        def authenticate_user(self, refresh_token: Token) -> str:
            return str(refresh_token.user)

        def revoke_old_credential(self, refresh_token: Token) -> None:
            if own.rotates:
                own.spent.add(refresh_token.refresh_token)
                own.refresh_tokens.pop(refresh_token.refresh_token, None)

    return RefreshGrant


def _revocation(own: OAuthServer) -> type[RevocationEndpoint]:
    class Revocation(RevocationEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

        def query_token(self, token_string: str, token_type_hint: str) -> Token | None:
            if token_string in own.tokens or token_string in own.refresh_tokens:
                return Token(value=token_string, scope="")
            return None

        def revoke_token(self, token: Token, request: Any) -> None:
            own.revoked.append(token.value)
            own.tokens.pop(token.value, None)
            own.refresh_tokens.pop(token.value, None)

    return Revocation


def _authlib(own: OAuthServer, app: Flask) -> AuthorizationServer:
    """Authlib's server with its grants on this one's dictionaries."""

    def save_token(token: dict[str, Any], request: Any) -> None:
        own.tokens[token["access_token"]] = str(request.user)
        own.issued.append(token["access_token"])
        if "refresh_token" in token:
            own.issued.append(token["refresh_token"])
            own.refresh_tokens[token["refresh_token"]] = Token(
                refresh_token=token["refresh_token"], scope=token.get("scope", ""), user=request.user
            )

    methods = ("client_secret_post",) if own.shape != "generic" else ("client_secret_basic",)
    client = Client(methods)
    server = AuthorizationServer(app, lambda client_id: client if client_id == CLIENT_ID else None, save_token)
    server.register_grant(_code_grant(own), [CodeChallenge(required=True)])
    server.register_grant(_refresh_grant(own))
    server.register_endpoint(_revocation(own))
    return server
