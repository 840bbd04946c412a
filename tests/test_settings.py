"""What the settings accept, and what they never show."""

from __future__ import annotations

from typing import Any

import pytest

from enrollment_service.settings import Settings

JWT = {"auth": "jwt", "jwt_issuer": "i", "jwt_audience": "a", "jwt_jwks": "/keys.json"}
TLS = {"tls_cert": "/c", "tls_key": "/k"}
MTLS = TLS | {"auth": "mtls", "tls_client_ca": "/ca", "mtls_roles": "/roles"}
NETWORK = {"listen": "0.0.0.0:50051"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["ENROLLMENT_AUTH: say how"]),
        (NETWORK, ["ENROLLMENT_AUTH: say how"]),
        ({"auth": "none"}, []),
        (NETWORK | {"auth": "none"}, ["ENROLLMENT_AUTH: none is allowed on a loopback address only"]),
        ({"listen": "[::]:1", "auth": "none"}, ["ENROLLMENT_AUTH: none is allowed on a loopback address only"]),
        ({"listen": "example.org:1", "auth": "none"}, ["ENROLLMENT_AUTH: none is allowed on a loopback address only"]),
        (NETWORK | {"profile": "dev"}, []),
        (JWT, []),
        (NETWORK | JWT, ["ENROLLMENT_TLS_CERT: tokens must not travel in the clear"]),
        (NETWORK | JWT | {"profile": "dev"}, ["ENROLLMENT_TLS_CERT: tokens must not travel in the clear"]),
        (NETWORK | JWT | {"tls": "proxy"}, []),
        (NETWORK | JWT | TLS, []),
        (
            {"auth": "jwt"},
            ["ENROLLMENT_JWT_ISSUER: needed", "ENROLLMENT_JWT_AUDIENCE: needed", "ENROLLMENT_JWT_JWKS: needed"],
        ),
        (NETWORK | MTLS, []),
        (MTLS | {"tls_client_ca": ""}, ["ENROLLMENT_TLS_CLIENT_CA: needed for ENROLLMENT_AUTH=mtls"]),
        (MTLS | {"mtls_roles": ""}, ["ENROLLMENT_MTLS_ROLES: needed for ENROLLMENT_AUTH=mtls"]),
        (MTLS | {"tls": "proxy"}, ["ENROLLMENT_AUTH: behind a proxy that ends TLS there are no certificates"]),
        (NETWORK | JWT | MTLS | {"auth": "mtls, jwt"}, []),
        ({"auth": "none", "tls_cert": "/c"}, ["ENROLLMENT_TLS_CERT and ENROLLMENT_TLS_KEY go together"]),
        ({"auth": "none", "tls_client_ca": "/c"}, ["ENROLLMENT_TLS_CLIENT_CA needs"]),
    ],
)
def test_a_server_is_not_open_to_anybody_by_mistake(settings: dict[str, Any], said: list[str]) -> None:
    problems = list(Settings(**settings).problems_of_serving())
    assert len(problems) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(problems, said, strict=True))


@pytest.mark.parametrize("auth", ["yes", "jwt,none", "none,mtls", "jwt,jwt", "JWT", "token"])
def test_other_kinds_of_authentication_are_refused(auth: str) -> None:
    with pytest.raises(ValueError, match="write jwt, mtls, jwt,mtls or none"):
        Settings(auth=auth)


@pytest.mark.parametrize("address", ["http://login.example.org/keys", "file:///keys", "ftp://x"])
def test_keys_do_not_come_by_an_address_that_anybody_could_answer_at(address: str) -> None:
    with pytest.raises(ValueError, match="path or an https URL"):
        Settings(jwt_jwks=address)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:50051", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_has_many_names(listen: str) -> None:
    assert Settings(listen=listen).profile == "production"


@pytest.mark.parametrize(
    "listen", ["", "50051", ":50051", "localhost", "localhost:", "localhost:http", "h:70000", "h:٣"]
)
def test_an_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings(listen=listen, profile="dev")


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("::1:6133", r"brackets: \[::1\]:6133"),
        (":::50051", r"brackets: \[::\]:50051"),
        ("[::1:50051", r"brackets: \[::1\]:50051"),
        ("fe80::1", "in brackets"),
        ("[localhost]:50051", "in brackets"),
        ("a:b:50051", "in brackets"),
    ],
)
def test_an_ipv6_address_needs_brackets(listen: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(listen=listen, profile="dev")


def test_metrics_keep_the_rules_of_addresses() -> None:
    assert Settings(metrics_listen="[::1]:9464").metrics_listen == "[::1]:9464"
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings(metrics_listen="9464")
    with pytest.raises(ValueError, match="brackets"):
        Settings(metrics_listen="::1:9464")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4317", "grpc://h:4317", "http://h", "http://:4317", "http://h:4317/v1"]
)
def test_spans_are_sent_to_a_url_with_host_and_port(endpoint: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Settings(traces_endpoint=endpoint)
    assert Settings(traces_endpoint="https://collector:4317").traces_endpoint == "https://collector:4317"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.variables():
        monkeypatch.setenv(name, "")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize("url", ["mysql://h/db", "sqlite:///file", "h/db", "postgresqlx://h"])
def test_a_database_url_is_one_of_postgresql(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://"):
        Settings(database_url=url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_database_url_may_name_a_driver(scheme: str) -> None:
    assert Settings(database_url=f"{scheme}://u:p@h:1/db").database_url == "postgresql://u:p@h:1/db"


def test_settings_show_no_password() -> None:
    settings = Settings(database_url="postgresql://u:marked-password@h/db")
    assert "marked-password" not in repr(settings)
    with pytest.raises(ValueError, match="postgresql") as failure:
        Settings(database_url="mysql://u:marked-password@h/db")
    assert "marked-password" not in str(failure.value)
