"""What the settings accept, and what they never show."""

from __future__ import annotations

import pytest

from enrollment_service.settings import Settings


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051", "example.org:50051"])
def test_production_stays_on_loopback_until_there_is_authentication(listen: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        Settings(listen=listen)
    assert Settings(listen=listen, profile="dev").listen == listen


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
    with pytest.raises(ValueError, match="ENROLLMENT_METRICS_LISTEN"):
        Settings(metrics_listen="0.0.0.0:9464")
    assert Settings(metrics_listen="0.0.0.0:9464", profile="dev").metrics_listen == "0.0.0.0:9464"


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
