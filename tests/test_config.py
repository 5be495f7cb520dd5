from __future__ import annotations

import pytest

from feed.config import Settings
from feed.errors import ConfigError


def test_without_variables_the_defaults_hold() -> None:
    settings = Settings.from_env({"PATH": "/bin"})
    assert settings == Settings()
    assert settings.retention.of("trade") == 5_000 and settings.retention.of("quote") == 100


def test_variables_are_read_by_type_and_flags_win() -> None:
    environ = {"FEED_PORT": "9000", "FEED_EXCHANGES": "kraken, binance,", "FEED_HEARTBEAT_S": "2.5"}
    settings = Settings.from_env(environ, port=9001, host=None)
    assert settings.port == 9001 and settings.host == "127.0.0.1"
    assert settings.exchanges == ("kraken", "binance") and settings.heartbeat_s == 2.5


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FEED_PROT", "1", "FEED_PORT"),
        ("FEED_PORT", "x", "FEED_PORT"),
        ("FEED_PORT", "70000", "FEED_PORT"),
        ("FEED_HEARTBEAT_S", "0", "FEED_HEARTBEAT_S"),
        ("FEED_OUTBOX_MAX_BYTES", "10", "FEED_OUTBOX_MAX_BYTES"),
        ("FEED_LOG_LEVEL", "loud", "FEED_LOG_LEVEL"),
    ],
)
def test_a_wrong_variable_is_an_error_by_its_name(name: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings.from_env({name: value})


def test_an_endpoint_is_found_by_exchange() -> None:
    settings = Settings(endpoints=("kraken=http://127.0.0.1:1", "binance=http://127.0.0.1:2"))
    assert settings.endpoint("binance") == "http://127.0.0.1:2"
    assert settings.endpoint("okx") is None
