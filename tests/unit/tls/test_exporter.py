"""`tls-exporter` on both ends of a handshake in memory."""

from __future__ import annotations

import ssl

import pytest

from rusmes.net.connection import TlsInfo
from rusmes.tls.exporter import LENGTH, exported_binding
from tests.sessions.harness import client_context, server_context


def handshake(version: ssl.TLSVersion) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context()
    context.maximum_version = version
    server = server_context().wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server)
    for _ in range(6):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return server, client


@pytest.mark.rfc("9266", "2")
def test_both_ends_export_the_same_and_no_two_connections_do() -> None:
    server, client = handshake(ssl.TLSVersion.TLSv1_3)
    binding = exported_binding(server)
    assert len(binding) == LENGTH
    assert binding == exported_binding(client)
    assert binding != exported_binding(handshake(ssl.TLSVersion.TLSv1_3)[0])


@pytest.mark.rfc("9266", "3")
def test_each_version_has_its_own_default_type() -> None:
    new = TlsInfo(handshake(ssl.TLSVersion.TLSv1_3)[0], b"hash")
    assert new.channel_binding("tls-exporter")
    assert not new.channel_binding("tls-unique")
    old = TlsInfo(handshake(ssl.TLSVersion.TLSv1_2)[0], b"hash")
    assert not old.channel_binding("tls-exporter")
    assert old.channel_binding("tls-unique")
    for info in (new, old):
        assert info.channel_binding("tls-server-end-point") == b"hash"
        assert not info.channel_binding("tls-something")


def test_an_object_of_another_layout_has_none() -> None:
    class Inner:
        context = object()

    class Outer:
        _sslobj = Inner()

    assert exported_binding(Outer()) == b""
    assert exported_binding(object()) == b""


def test_before_the_handshake_there_is_none() -> None:
    server = server_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert exported_binding(server) == b""
