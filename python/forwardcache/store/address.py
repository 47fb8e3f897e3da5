"""The address of a shared store, every part of it checked before anything is asked.

A client library takes options that it doesn't know as they come, some of them as text where it
wants another type, and lets them win over what its caller sets. A mistake would show in a job as
values that nobody keeps or finds. So what an address may hold is listed here with its type.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from forwardcache.errors import InvalidInputError

SCHEMES = ("redis", "rediss", "valkey", "valkeys")
_WITH_TLS = frozenset({"rediss", "valkeys"})
_DEFAULT_PORT = 6379
_MOST_DATABASE = 2**31 - 1
# Beyond this a server's clock of milliseconds overflows.
_MOST_TTL_S = 9e12

_SECRET = frozenset({"password", "ssl_password", "ssl_ca_data"})
_OURS = frozenset({"namespace", "ttl_s"})
_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

# What a name that ends so would be among servers is a file in the wrong place.
_ENDINGS_OF_FILES = (".db", ".sqlite", ".sqlite3")

Reader = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Address:
    """What an address says.

    Attributes:
        nodes: Host and port of each server that it names.
        has_tls: Whether the connection is encrypted.
        options: What the client library is given beyond that, by its names.
        namespace: Who shares values; None if the address doesn't say.
        ttl_s: Seconds that a value is kept; None if the address doesn't say.
        timeout_s: The longest wait that it asks for; None if it doesn't.
    """

    nodes: tuple[tuple[str, int], ...]
    has_tls: bool
    options: Mapping[str, Any] = field(repr=False)
    namespace: str | None = None
    ttl_s: str | None = None
    timeout_s: float | None = None


def parse(url: str) -> Address:
    """Reads and checks the address of a shared store.

    Args:
        url: ``redis://[[user]:password@]host[:port][,host[:port]…][/database][?option=value&…]``,
            or with another of ``SCHEMES``.

    Raises:
        InvalidInputError: part of it is wrong, or nothing that is known.
    """
    each = [_split(one) for one in _of_each_host(url)]
    parts, nodes = each[0], _nodes(each)
    has_tls = parts.scheme in _WITH_TLS
    given = _options(parts, has_tls=has_tls)
    ours = {name: given.pop(name) for name in _OURS & given.keys()}
    timeouts = [given.pop(name) for name in ("socket_timeout", "socket_connect_timeout")
                if name in given]  # fmt: skip
    _set_database(parts, given)
    # Of the library only as text, where it means the opposite of what it says.
    given.pop("decode_responses", None)
    if has_tls:
        _check_tls(given)
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            given[name] = unquote(value)
    return Address(nodes, has_tls, given, timeout_s=min(timeouts, default=None), **ours)


def milliseconds(ttl_s: Any) -> int | None:
    """A time to live as the server takes it; None for never.

    Raises:
        InvalidInputError: it is no positive number of seconds, or too large.
    """
    if ttl_s is None:
        return None
    try:
        found = int(float(ttl_s) * 1000.0)
    except (TypeError, ValueError, OverflowError):
        found = 0
    if not 1 <= found <= _MOST_TTL_S * 1000.0:
        raise InvalidInputError(
            f"ttl_s must be a positive number of seconds, got {ttl_s!r}: "
            f"0.001 to {_MOST_TTL_S:g} are allowed"
        )
    return found


def _of_each_host(url: str) -> list[str]:
    """The address as it would be for each host of several, between whose names are commas."""
    scheme, mark, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, hosts = authority.rpartition("@")
    end = rest[len(authority) :]
    return [f"{scheme}{mark}{user}{at}{host}{end}" for host in hosts.split(",")]


def _nodes(each: list[SplitResult]) -> tuple[tuple[str, int], ...]:
    """Host and port of each server, each once."""
    nodes: dict[tuple[str, int], None] = {}
    for parts in each:
        node = unquote(parts.hostname or ""), _port(parts)
        if len(each) > 1 and node[0].endswith(_ENDINGS_OF_FILES):
            raise InvalidInputError(
                f"{node[0]} is among the servers of a store's address: a file stands before it, "
                "as in FILE,redis://HOST"
            )
        if node in nodes:
            raise InvalidInputError(
                f"the server {node[0]}:{node[1]} is twice in the address of the store"
            )
        nodes[node] = None
    return tuple(nodes)


def _split(url: str) -> SplitResult:
    """The parts of an address whose kind and host are there."""
    known = ", ".join(f"{scheme}://HOST" for scheme in SCHEMES)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInputError(f"a shared store is {known}: {error}") from None
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.fragment or any("@" in each for each in (parts.path, *names)):
        raise InvalidInputError(
            f"the address of the {parts.scheme}:// store can't be read: in a user's name or "
            "password /, ? and # are written %2F, %3F and %23"
        )
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise InvalidInputError(
            f"a shared store is {known}, got {parts.scheme or 'an address without a scheme'}"
        )
    if re.search(r"\s", parts.hostname):
        raise InvalidInputError("a server of the store's address has a space in its name")
    return parts


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        given = parts.netloc.rpartition("@")[2].rpartition(":")[2]
        raise InvalidInputError(f"the port must be a number from 1 to 65535, got {given!r}")
    return _DEFAULT_PORT if port is None else port


def _set_database(parts: SplitResult, given: dict[str, Any]) -> None:
    """Puts the path's database into ``given``, as one of its options."""
    path = unquote(parts.path).removeprefix("/")
    if not path:
        return
    try:
        number = _database(path)
    except ValueError:
        raise InvalidInputError(
            f"the database must be a number from 0 to {_MOST_DATABASE}, got {path!r}: a name for "
            "values of your own is ?namespace=NAME, and a file stands before the address"
        ) from None
    if given.setdefault("db", number) != number:
        raise InvalidInputError(f"two databases: {path} in the path, and db={given['db']}")


def _options(parts: SplitResult, *, has_tls: bool) -> dict[str, Any]:
    """The options of the query, each known, once, and of its type."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _KNOWN:
            raise InvalidInputError(_unknown(name))
        if name in found:
            raise InvalidInputError(f"the address of the store has the option {name} twice")
        if name.startswith("ssl_") and not has_tls:
            raise InvalidInputError(
                f"the option {name} is for rediss:// or valkeys:// (TLS), and the address begins "
                f"with {parts.scheme}://"
            )
        read, wanted = _KNOWN[name]
        try:
            found[name] = read(text)
        except ValueError:
            got = "something else" if name in _SECRET else repr(text)
            raise InvalidInputError(
                f"the option {name} of a store's address must be {wanted}, got {got}"
            ) from None
    return found


def _unknown(name: str) -> str:
    close = get_close_matches(name, _KNOWN, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_KNOWN)}"
    return f"a store's address has no option {name!r}: {hint}"


def _check_tls(given: Mapping[str, Any]) -> None:
    """Tries what the options of TLS name, as a connection would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files = [given.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data")]
    certificate, key = given.get("ssl_certfile"), given.get("ssl_keyfile")
    if key and not certificate:
        raise InvalidInputError("ssl_keyfile needs ssl_certfile")
    try:
        if any(files):
            context.load_verify_locations(*files)
        if certificate:
            # Without a password a key that has one would be asked for on the terminal.
            password = given.get("ssl_password", "")
            context.load_cert_chain(certificate, key, password=password)
        if "ssl_ciphers" in given:
            context.set_ciphers(given["ssl_ciphers"])
    except (OSError, ValueError) as error:
        named = ", ".join(sorted(name for name in given if name.startswith("ssl_")))
        raise InvalidInputError(f"TLS can't use its options ({named}): {error}") from None


def _boolean(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError
    return _WORDS[text.lower()]


def _not_true(text: str) -> bool:
    if _boolean(text):
        raise ValueError
    return False


def _integer(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def _positive(text: str) -> float:
    number = float(text)
    if not 0.0 < number < float("inf"):
        raise ValueError
    return number


def _one_of(**values: Any) -> Reader:
    def read(text: str) -> Any:
        if text not in values:
            raise ValueError
        return values[text]

    return read


def _matching(pattern: str) -> Reader:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError
        return text

    return read


def _there(is_kind: Callable[[Path], bool]) -> Reader:
    def read(text: str) -> str:
        if not is_kind(Path(text)):
            raise ValueError
        return text

    return read


_database = _integer(0, _MOST_DATABASE)
_A_BOOLEAN = (_boolean, "true or false")
_A_NUMBER = (_positive, "a positive number of seconds")
_A_TEXT = (_matching(".+"), "a text that is not empty")
_A_FILE = (_there(Path.is_file), "a file that is there")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

# Every option that an address may hold: how it is read, and what it must be.
_KNOWN: dict[str, tuple[Reader, str]] = {
    "namespace": _A_TEXT,
    "ttl_s": (str, "a positive number of seconds"),
    "db": (_database, f"a number from 0 to {_MOST_DATABASE}"),
    "username": _A_TEXT,
    "password": _A_TEXT,
    "protocol": (_integer(2, 3), "2 or 3"),
    "client_name": (_matching("[!-~]+"), "letters, digits and signs without spaces"),
    "socket_timeout": _A_NUMBER,
    "socket_connect_timeout": _A_NUMBER,
    "socket_keepalive": _A_BOOLEAN,
    "retry_on_timeout": _A_BOOLEAN,
    "health_check_interval": (_integer(0, 10**9), "a whole number of seconds"),
    "max_connections": (_integer(1, 2**31 - 1), "a positive whole number"),
    "decode_responses": (_not_true, "false, since values are bytes"),
    "ssl_cert_reqs": (
        _one_of(none="none", optional="optional", required="required"),
        "none, optional or required",
    ),
    "ssl_check_hostname": _A_BOOLEAN,
    "ssl_ca_certs": _A_FILE,
    "ssl_ca_path": (_there(Path.is_dir), "a folder that is there"),
    "ssl_ca_data": _A_TEXT,
    "ssl_certfile": _A_FILE,
    "ssl_keyfile": _A_FILE,
    "ssl_password": _A_TEXT,
    "ssl_ciphers": _A_TEXT,
    "ssl_min_version": (
        _one_of(**_VERSIONS, **{str(int(each)): each for each in _VERSIONS.values()}),
        "1.2 or 1.3",
    ),
}
