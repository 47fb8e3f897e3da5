"""Claims: whatever stands in a shared store's address is known and of its type, or refused by name
when the store is made; nothing in it can turn off what the store needs; no password is shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.store import open_store
from forwardcache.store.address import parse
from forwardcache.store.redis import RedisStore
from forwardcache.store.tiers import Tiers
from tests.cli.conftest import Run, run
from tests.store.servers import RedisServer
from tests.store.test_redis import key, record, records

__all__ = ["run"]


@pytest.fixture(autouse=True)
def patience(patient: None) -> None:
    """What is read and written here is no matter of time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), None, "--requirepass", "right")
    yield server
    server.kill()


WRONG = [
    ("redis://host?namespce=team", "no option 'namespce': did you mean namespace?"),
    ("redis://host?ttl=5", "no option 'ttl': did you mean ttl_s?"),
    ("redis://host?zzz=1", "no option 'zzz': known are namespace, ttl_s, db"),
    ("redis://host?decode_responses=true", "decode_responses .* must be false, .* got 'true'"),
    ("redis://host?decode_responses=maybe", "decode_responses"),
    ("redis://host?retry_on_error=TimeoutError", "retry_on_error"),
    ("redis://host?encoding=utf-16", "encoding"),
    ("redis://host:99999", "port must be a number from 1 to 65535, got '99999'"),
    ("redis://host:abc/0", "port must be a number from 1 to 65535, got 'abc'"),
    ("redis://host:0", "port must be a number from 1 to 65535, got '0'"),
    ("redis://host:-1", "port must be"),
    ("redis://[::1", "a shared store is"),
    ("redis://one,,two", "a shared store is"),
    ("redis://one,", "a shared store is"),
    ("redis://one,two:abc", "port must be a number from 1 to 65535, got 'abc'"),
    ("redis://one,[::1", "a shared store is"),
    ("redis://one,two,ONE:6379", "the server one:6379 is twice"),
    ("redis://one,values.db", "values.db is among the servers .* FILE,redis://HOST"),
    ("redis://one,two/3,values.db", "database must be a number"),
    ("redis://one,two?namespce=team", "no option 'namespce'"),
    ("redis://one, two", "a space in its name"),
    ("redis://host/mydb", "database must be a number from 0 to .*, got 'mydb'"),
    ("redis://host/1/2", "got '1/2'"),
    ("redis://host/-1", "got '-1'"),
    ("redis://host/0,values.db", "got '0,values.db': .*a file stands before"),
    ("redis://host?db=one", "option db .* got 'one'"),
    ("redis://host/1?db=2", "two databases: 1 in the path, and db=2"),
    ("redis://host?db=1&db=1", "option db twice"),
    ("redis://host?socket_timeout=abc", "socket_timeout .* positive number of seconds, got 'abc'"),
    ("redis://host?socket_timeout=-1", "socket_timeout"),
    ("redis://host?socket_connect_timeout=nan", "socket_connect_timeout"),
    ("redis://host?socket_keepalive=2", "socket_keepalive .* true or false"),
    ("redis://host?health_check_interval=1.5", "health_check_interval"),
    ("redis://host?max_connections=0", "max_connections"),
    ("redis://host?protocol=4", "protocol .* 2 or 3"),
    ("redis://host?client_name=two%20words", "client_name"),
    ("redis://host?namespace=", "namespace"),
    ("redis://host?namespace=a%20b", "namespace"),
    ("redis://host?ttl_s=1e20", "ttl_s must be a positive number of seconds, got '1e20'"),
    ("redis://host?ttl_s=inf", "ttl_s"),
    ("redis://host?ttl_s=", "ttl_s"),
    ("redis://host?ssl_ca_certs=/etc/hosts", "ssl_ca_certs is for rediss:// .* redis://"),
    ("valkey://host?ssl_cert_reqs=none", "ssl_cert_reqs is for rediss:// .* valkey://"),
    ("rediss://host?ssl_cert_reqs=maybe", "none, optional or required, got 'maybe'"),
    ("rediss://host?ssl_ca_certs=/no/such.pem", "ssl_ca_certs .* a file that is there"),
    ("rediss://host?ssl_ca_certs=/etc/hosts", r"TLS can't use its options \(ssl_ca_certs\)"),
    ("rediss://host?ssl_ciphers=NONE-SUCH", "ssl_ciphers"),
    ("rediss://host?ssl_min_version=9", "1.2 or 1.3, got '9'"),
    ("rediss://host?ssl_keyfile=/etc/hosts", "ssl_keyfile needs ssl_certfile"),
    ("redis://host#2", "can't be read"),
    ("redis:/host", "not redis:"),
    ("REDIS:host", "not REDIS:"),
    ("unix:///run/redis.sock", "not unix://"),
    ("file:values.db", "not file:"),
    ("values.db?mode=ro", "a store in a file takes no options"),
]


@pytest.mark.parametrize(("address", "words"), WRONG, ids=[address for address, _ in WRONG])
def test_a_mistake_is_refused_by_name(address: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        open_store(address)


def test_a_mistake_is_one_line_of_the_command(run: Run, tmp_path: Path) -> None:
    for address in ("redis://h:abc", "redis://h?namespce=a", "redis://h?ttl_s=1e20"):
        run("store", "info", address).refused(address.partition("?")[2].partition("=")[0])
        run("store", "info", f"{tmp_path}/a.db,{address}").refused("there is no store")


@pytest.mark.parametrize(
    "address",
    ["redis://u:se/cret@host", "redis://u:se?cret@host", "redis://u:se#cret@host",
     "redis://:secret@host:abc", "redis://host?password=secret&x=1", "redis://:secret@host/db",
     "secret@host", "redis://host?password=&x=secret", "redis://:sec/ret@one,two",
     "redis://:secret@one,two:abc", "redis://:secret,cret@one,one", "redis://:cret@one, two"],
)  # fmt: skip
def test_a_password_is_not_in_the_line(address: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        RedisStore(address)
    assert "cret" not in str(refused.value)


def test_every_part_of_an_address_arrives() -> None:
    found = parse(
        "rediss://me:a%2Fb@host:7000/3?protocol=3&client_name=x&ssl_min_version=1.3&"
        "socket_timeout=0.01&socket_keepalive=no&namespace=team&ttl_s=60&decode_responses=False"
    )
    assert (found.nodes, found.has_tls) == ((("host", 7000),), True)
    assert (found.namespace, found.ttl_s) == ("team", "60")
    assert found.timeout_s == 0.01
    assert found.options == {
        **{"db": 3, "username": "me", "password": "a/b"},
        **{"protocol": 3, "client_name": "x", "socket_keepalive": False},
        "ssl_min_version": ssl.TLSVersion.TLSv1_3,
    }
    assert (parse("valkey://[::1]").nodes, parse("valkey://h").options) == ((("::1", 6379),), {})


def test_several_servers_stand_in_one_address() -> None:
    found = parse("valkeys://me:a,b@One:1,[::1]:2,three/0?namespace=team")
    assert found.nodes == (("one", 1), ("::1", 2), ("three", 6379))
    assert found.options == {"db": 0, "username": "me", "password": "a,b"}
    assert (found.has_tls, found.namespace) == (True, "team")
    several = open_store("redis://one,two:7000")
    assert repr(several) == "<RedisStore one,two, default>"
    tiers = open_store("redis://one,two,redis://three")
    assert isinstance(tiers, Tiers)
    assert [repr(each) for each in tiers.stores] == [
        "<RedisStore one,two, default>",
        "<RedisStore three, default>",
    ]


@pytest.mark.parametrize(
    "query",
    ["", "?protocol=3", "?decode_responses=False", "?decode_responses=0", "?socket_timeout=600",
     "?retry_on_timeout=yes", "?socket_keepalive=true&health_check_interval=5", "?db=7",
     "?max_connections=3&client_name=me", "?socket_connect_timeout=0.9"],
)  # fmt: skip
def test_what_may_stand_in_an_address_keeps_and_finds_values(
    server: RedisServer, query: str
) -> None:
    url = f"redis://:right@127.0.0.1:{server.port}{query}"
    with_it, other = RedisStore(url, namespace="q"), RedisStore(url, namespace="q")
    assert with_it.put_many(records(3)) == 3
    assert other.get_many([key(1)]) == {key(1): record(1).blob}
    assert other.verify().ok == 3
    assert (with_it.errors, other.errors) == (0, 0)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("redis://:wrong@127.0.0.1:PORT", "invalid username-password pair"),
        ("redis://127.0.0.1:PORT", "Authentication required"),
        ("redis://:right@127.0.0.1:PORT/99", "DB index is out of range"),
    ],
)
def test_a_servers_own_word_is_in_the_line(
    run: Run, server: RedisServer, caplog: pytest.LogCaptureFixture, address: str, word: str
) -> None:
    url = address.replace("PORT", str(server.port))
    store = RedisStore(url)
    assert store.get_many([key(1)]) == {}
    [said] = [each.getMessage() for each in caplog.records]
    assert word in said
    assert word in (store.last_error or "")
    ended = run("store", "info", url)
    assert ended.code == 3
    assert word in ended.err.splitlines()[-1]
    assert "wrong" not in ended.err
