"""What the settings accept, and what they never show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enrollment_service.settings import SecretFileError, Settings

URL = "postgresql://u@h/db"

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
        (
            MTLS | {"tls": "proxy"},
            [
                "ENROLLMENT_AUTH: behind a proxy that ends TLS there are no certificates",
                "ENROLLMENT_TLS: a proxy that ends TLS needs no certificate here",
            ],
        ),
        (NETWORK | JWT | MTLS | {"auth": "mtls, jwt"}, []),
        (TLS | {"auth": "none", "tls": "proxy"}, ["ENROLLMENT_TLS: a proxy that ends TLS needs no certificate here"]),
        (JWT | {"jwt_audience": " "}, ["ENROLLMENT_JWT_AUDIENCE: needed"]),
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


@pytest.mark.parametrize(
    "address",
    ["http://login.example.org/keys", "file:///keys", "ftp://x", "https://", "https://[::1/x", "https://a b/"],
)
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


# --- secrets ----------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgres://u@h/db\n")
    (tmp_path / "password").write_bytes(b"p: @/%C3%A4 \xc3\xa4\r\n")
    monkeypatch.setenv("ENROLLMENT_DATABASE_URL_FILE", f"{tmp_path / 'url'}")
    monkeypatch.setenv("ENROLLMENT_DATABASE_PASSWORD_FILE", f"{tmp_path / 'password'}")
    settings = Settings()
    assert settings.database_url == URL
    assert settings.password is not None
    assert settings.password() == "p: @/%C3%A4 ä"  # as it stands there, but for the line break at the end


def test_a_password_is_the_one_that_the_file_has_now(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    password = Settings(database_url=URL, database_password_file=file).password
    assert password is not None
    file.write_text("new\n")
    assert password() == "new"
    file.unlink()
    with pytest.raises(SecretFileError, match="ENROLLMENT_DATABASE_PASSWORD_FILE: the file cannot be read"):
        password()


def test_a_password_may_be_a_variable_of_its_own_or_in_the_url() -> None:
    password = Settings(database_url=URL, database_password="p@/").password
    assert password is not None
    assert password() == "p@/"
    assert Settings(database_url="postgresql://u:p@h/db").password is None


@pytest.mark.parametrize("name", Settings.secrets())
def test_a_secret_and_its_file_are_not_both_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("postgresql://u:marked-password@h/db")
    monkeypatch.setenv(f"ENROLLMENT_{name.upper()}", "postgresql://u:marked-password@h/db")
    monkeypatch.setenv(f"ENROLLMENT_{name.upper()}_FILE", f"{tmp_path / 'secret'}")
    variable = f"ENROLLMENT_{name.upper()}"
    with pytest.raises(ValueError, match=f"{variable} and {variable}_FILE are both set: leave one out") as failure:
        Settings()
    assert "marked-password" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/db",
        "postgresql://u:@h/db",
        "postgresql://h/db?user=u&password=p",
        "postgresql://u:p@[::1/db",
    ],
)
def test_a_password_is_not_given_twice(url: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("marked-password")
    with pytest.raises(ValueError, match="given twice") as failure:
        Settings(database_url=url, database_password_file=tmp_path / "password")
    assert "marked-password" not in str(failure.value)
    with pytest.raises(ValueError, match="given twice"):
        Settings(database_url=url, database_password="p")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda file: file.parent, "the file cannot be read (No such file or directory)"),
        (lambda file: file.mkdir(), "the file cannot be read (Is a directory)"),
        (lambda file: file.write_text(""), "the file is empty"),
        (lambda file: file.write_text("\r\n\n"), "the file is empty"),
        (lambda file: file.write_bytes(b"\xff"), "the file is not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("name", Settings.secrets())
def test_a_file_that_is_of_no_use_is_named_by_its_setting(
    name: str, make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """And not by its path, where somebody may have put the secret itself."""
    file = tmp_path / "marked-password"
    make(file)
    with pytest.raises(SecretFileError) as failure:
        Settings.model_validate({f"{name}_file": file})
    assert str(failure.value) == f"ENROLLMENT_{name.upper()}_FILE: {said}"


def test_another_secret_needs_a_field_and_a_field_for_its_file(tmp_path: Path) -> None:
    class Extended(Settings):
        token: str = ""
        token_file: Path | None = None

    (tmp_path / "token").write_text("t\n")
    assert "token" in Extended.secrets()
    assert Extended(token_file=tmp_path / "token").token == "t"


def test_no_secret_is_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("marked-password")
    by_file = Settings(database_url=URL, database_password_file=tmp_path / "secret")
    by_value = Settings(database_url=URL, database_password="marked-password")
    (tmp_path / "secret").write_text("postgresql://u:marked-password@h/db")
    for settings in (by_file, by_value, Settings(database_url_file=tmp_path / "secret")):
        assert "marked-password" not in f"{settings!r} {settings} {settings.password!r}"
