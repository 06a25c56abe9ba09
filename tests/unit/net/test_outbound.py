"""Ways out: a local address, SOCKS5 (RFC 1928, RFC 1929), the PROXY protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rusmes.net.outbound import DIRECT, Way, WayFailed, connect_by
from rusmes.net.proxyproto import header_v2, parse_header
from tests.loops import run_on_uvloop
from tests.sinks.proxies import HeaderProxy, SocksProxy


@pytest.fixture(autouse=True, params=["uvloop", "asyncio"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", run_on_uvloop)


class Greeter:
    """A server that says from where a client comes."""

    async def __aenter__(self) -> Greeter:
        self._server = await asyncio.start_server(self._greet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _greet(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername")[0].encode() + b"\r\n")
        writer.close()


async def said(way: Way, port: int, *, source: str = "", timeout: float = 10.0) -> tuple[str, str]:
    """What the server said, and the address that it was to see."""
    connection, seen = await connect_by(way, "127.0.0.1", port, timeout=timeout, source=source)
    connection.set_deadline(10)
    data = b""
    while piece := await connection.receive():
        data += piece
    await connection.close()
    return data.decode().strip(), seen


def run(test: Callable[[Greeter], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), Greeter() as greeter:
            await test(greeter)

    asyncio.run(main())


def test_direct_from_a_local_address() -> None:
    async def test(greeter: Greeter) -> None:
        assert await said(DIRECT, greeter.port, source="127.0.0.2") == ("127.0.0.2", "127.0.0.2")
        assert await said(DIRECT, greeter.port) == ("127.0.0.1", "127.0.0.1")

    run(test)


def test_an_address_that_is_not_ours_is_our_fault_and_a_server_that_refuses_is_not() -> None:
    async def test(greeter: Greeter) -> None:
        with pytest.raises(WayFailed, match=r"192\.0\.2\.1") as caught:
            await said(DIRECT, greeter.port, source="192.0.2.1")
        assert caught.value.kind == "bind"
        with pytest.raises(ConnectionRefusedError):
            await said(DIRECT, 1, source="127.0.0.2")

    run(test)


@pytest.mark.parametrize("users", [None, {"user": "secret"}])
def test_socks5(users: dict[str, str] | None) -> None:
    async def test(greeter: Greeter) -> None:
        async with SocksProxy(users=users, source="127.0.0.3") as proxy:
            way = Way("socks5", "127.0.0.1", proxy.port, "user" if users else "", "secret" if users else "")
            assert await said(way, greeter.port) == ("127.0.0.3", "127.0.0.3")
            assert proxy.asked == [("127.0.0.1", greeter.port)]
            assert proxy.logins == ([("user", "secret")] if users else [])

    run(test)


@pytest.mark.parametrize(
    ("given", "username", "reason"),
    [
        ({"users": {"user": "other"}}, "user", "refused the login"),
        ({"users": {"user": "secret"}}, "", "wants a login"),
        ({"reply": 2}, "", "not allowed by its rules"),
        ({"garbage": b"HTTP/1.1 400 Bad Request\r\n"}, "", "does not speak SOCKS5"),
        ({"garbage": b"\x05"}, "", "closed the connection"),
    ],
)
def test_a_proxy_that_does_not_do_its_work_is_our_fault(given: dict[str, object], username: str, reason: str) -> None:
    async def test(greeter: Greeter) -> None:
        async with SocksProxy() as proxy:
            for name, value in given.items():
                setattr(proxy, name, value)
            with pytest.raises(WayFailed, match=reason) as caught:
                await said(Way("socks5", "127.0.0.1", proxy.port, username, "secret"), greeter.port)
            assert caught.value.kind == "proxy"

    run(test)


@pytest.mark.parametrize("reply", [1, 3, 4, 5, 6, 8])
def test_what_the_other_server_does_is_no_fault_of_the_proxy(reply: int) -> None:
    async def test(greeter: Greeter) -> None:
        async with SocksProxy() as proxy:
            proxy.reply = reply
            with pytest.raises(OSError, match="by the proxy"):
                await said(Way("socks5", "127.0.0.1", proxy.port), greeter.port)

    run(test)


def test_a_proxy_that_is_not_there() -> None:
    async def test(greeter: Greeter) -> None:
        with pytest.raises(WayFailed, match="refused"):
            await said(Way("socks5", "127.0.0.1", 1), greeter.port)

    run(test)


def test_a_proxy_that_says_nothing_is_given_half_of_the_time() -> None:
    async def test(greeter: Greeter) -> None:
        async with SocksProxy() as proxy:
            proxy.is_mute = True
            with pytest.raises(WayFailed, match=r"does not answer within 0\.1 s"):
                await said(Way("socks5", "127.0.0.1", proxy.port), greeter.port, timeout=0.2)

    run(test)


def test_proxy_protocol_towards_an_egress_proxy() -> None:
    async def test(greeter: Greeter) -> None:
        async with HeaderProxy() as proxy:
            way = Way("haproxy", "127.0.0.1", proxy.port)
            assert await said(way, greeter.port, source="127.0.0.4") == ("127.0.0.4", "127.0.0.4")
            assert proxy.asked == [("127.0.0.1", greeter.port)]
        with pytest.raises(WayFailed):
            await said(way, greeter.port, source="127.0.0.4")

    run(test)


def test_headers_can_be_read_again() -> None:
    for ends in (("192.0.2.1", 0, "198.51.100.2", 25), ("2001:db8::1", 7, "2001:db8::2", 2525)):
        data = header_v2(*ends)
        header = parse_header(data)
        assert header is not None
        assert (header.length, header.source, header.source_port) == (len(data), *ends[:2])
        assert (header.destination, header.destination_port) == ends[2:]
    with pytest.raises(ValueError, match="families"):
        header_v2("192.0.2.1", 0, "2001:db8::2", 25)
