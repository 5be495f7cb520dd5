"""Bus URLs, good and bad."""

import pytest

from feed.bus import open_bus
from feed.bus.address import Address, Tls, parse_address
from feed.bus.base import Retention
from feed.bus.memory import MemoryBus
from feed.bus.redis import RedisBus
from feed.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://bus", Address(host="bus")),
        ("redis://bus:7000/2", Address(host="bus", port=7000, db=2)),
        ("redis://bus?db=5", Address(host="bus", db=5)),
        ("redis://[::1]:7000", Address(host="::1", port=7000)),
        ("redis://:pw@bus", Address(host="bus", password="pw")),
        ("redis://me:p%40%2Fw@bus", Address(host="bus", username="me", password="p@/w")),
        ("rediss://bus", Address(host="bus", tls=Tls())),
        (
            "rediss://bus?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            Address(host="bus", tls=Tls("/ca.pem", "/c.pem", "/k.pem")),
        ),
        ("rediss://bus?ssl_cert_reqs=none", Address(host="bus", tls=Tls(verify=False))),
        ("unix:///run/bus.sock", Address(path="/run/bus.sock")),
        (
            "unix://me:pw@/run/a%20b.sock?db=1",
            Address(path="/run/a b.sock", db=1, username="me", password="pw"),
        ),
        (
            "redis+sentinel://:pw@one,two:26380/prices/3",
            Address(
                sentinels=(("one", 26379), ("two", 26380)), service="prices", db=3, password="pw"
            ),
        ),
    ],
)
def test_a_url_leads_to_one_place(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "unknown bus scheme ''"),
        ("bus:6379", "unknown bus scheme 'bus'"),
        ("redsi://bus", "unknown bus scheme 'redsi'.*rediss"),
        ("redis+cluster://bus", "not supported yet"),
        ("redis://bus:port", "bad port"),
        ("redis://bus:99999", "bad port"),
        ("redis://:secret/word@bus", "%2F"),
        ("redis://:secret?word@bus", "%3F"),
        ("unix://:secret#word@/run/bus.sock", "%23"),
        ("redis://bus/one", "database 'one' is not a number"),
        ("redis://bus/1/2", "one database number at most"),
        ("redis://bus?db=-1", "database '-1' is not a number"),
        ("redis://bus?socket_timeout=3", "unknown option 'socket_timeout'"),
        ("redis://bus?ssl_ca_certs=/ca.pem", "unknown option 'ssl_ca_certs'"),
        ("rediss://bus?ssl_cert_reqs=maybe", "required or none"),
        ("unix://run/bus.sock", "unix:///path"),
        ("unix://", "unix:///path"),
        ("redis+sentinel://one", "/service"),
        ("redis://[::1", "Invalid IPv6"),
    ],
)
def test_a_bad_url_is_the_operators_matter(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        open_bus(url, Retention())
    assert "secret" not in str(caught.value) and "word@" not in str(caught.value)


async def test_the_scheme_chooses_the_bus() -> None:
    assert isinstance(open_bus("memory://", Retention()), MemoryBus)
    for url in ("redis://bus", "rediss://bus", "unix:///s", "redis+sentinel://one/prices"):
        bus = open_bus(url, Retention())
        assert isinstance(bus, RedisBus)
        await bus.close()


def test_an_address_shows_no_password() -> None:
    for url in ("redis://me:pw1@bus", "unix://:pw1@/s", "redis+sentinel://:pw1@one/prices"):
        address = parse_address(url)
        assert "pw1" not in f"{address} {address!r}"
