"""Where a bus URL leads. Pure.

``redis://[user:password@]host[:6379][/db]``, ``rediss://…`` with TLS, ``unix:///path[?db=n]``, and
``redis+sentinel://[user:password@]host[:26379][,host…]/service[/db]``, where the user and the
password are the data server's. TLS takes ``?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…`` and
``ssl_cert_reqs=none`` for a certificate that nobody checks.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from feed.errors import ConfigError

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}


@dataclass(frozen=True)
class Tls:
    """File names as in the URL; ``verify`` False trusts anybody."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return a client's context.

        Raises:
            ConfigError: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_certs)
            if self.certfile:
                context.load_cert_chain(self.certfile, self.keyfile)
        except OSError as e:
            raise ConfigError(f"cannot load the bus's TLS files: {e}") from e
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Address:
    """One server, or the sentinels that know which one.

    Attributes:
        path: Of a unix socket; then host and port mean nothing.
        sentinels: (host, port) each; then ``service`` names the master.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""

    def __str__(self) -> str:
        """For messages and logs: never with the password."""
        if self.path:
            return f"unix://{self.path}"
        if self.sentinels:
            where = ",".join(f"{host}:{port}" for host, port in self.sentinels)
            return f"redis+sentinel://{where}/{self.service}"
        return f"redis{'s' if self.tls else ''}://{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Take a bus URL apart.

    Raises:
        ConfigError: Not such a URL; the message says what is wrong, without the password.
    """
    try:
        return _parse(url)
    except ValueError as e:
        raise ConfigError(f"bad bus URL: {e}") from e


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {parts.scheme!r}: one of {', '.join(SCHEMES)}")
    if "@" in parts.query + parts.fragment + (parts.path if parts.scheme != "unix" else ""):
        raise ValueError("an @ after the host; write / ? # in a password as %2F %3F %23")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"db"} | (_TLS_OPTIONS if parts.scheme == "rediss" else set())
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown option {unknown[0]!r}: one of {', '.join(sorted(known))}")
    credentials, _, where = parts.netloc.rpartition("@")
    username, _, password = map(unquote, credentials.partition(":"))
    user, secret = username or None, password or None
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]

    if parts.scheme == "unix":
        if where or not segments:
            raise ValueError("write unix:///path/to/the/socket")
        return Address(
            path=unquote(parts.path),
            db=_number(options.get("db", "0")),
            username=user,
            password=secret,
        )

    service = ""
    if parts.scheme == "redis+sentinel":
        if not segments:
            raise ValueError("write redis+sentinel://host:26379/service")
        service = segments.pop(0)
    if len(segments) > 1:
        raise ValueError(f"{parts.path!r}: one database number at most")
    db = _number(options.get("db") or (segments[0] if segments else "0"))
    if service:
        sentinels = tuple(_host_port(one, 26379) for one in where.split(","))
        return Address(sentinels=sentinels, service=service, db=db, username=user, password=secret)

    host, port = _host_port(where, 6379)
    tls = None
    if parts.scheme == "rediss":
        reqs = options.get("ssl_cert_reqs", "required")
        if reqs not in ("required", "none"):
            raise ValueError(f"ssl_cert_reqs={reqs!r}: required or none")
        tls = Tls(
            options.get("ssl_ca_certs"),
            options.get("ssl_certfile"),
            options.get("ssl_keyfile"),
            reqs == "required",
        )
    return Address(host=host, port=port, db=db, tls=tls, username=user, password=secret)


def _host_port(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")  # knows [::1]:6379
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"bad port in {text!r}") from None
    return parts.hostname or "localhost", default_port if port is None else port


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"database {text!r} is not a number")
    return int(text)
