"""What a peer says in Sec-WebSocket-Extensions: taken apart, then accepted or declined; what is agreed on must work."""

from __future__ import annotations

from gevpy import HandshakeError
from gevpy.websocket.deflate import Deflate, require_offers

TEXT = b"permessage-deflate, RFC 7692" * 3


def one_input(data: bytes) -> None:
    """Take it for a client's offer, and for a server's answer."""
    try:
        offers = require_offers(data.decode("latin-1").split("\n"))
    except ValueError:
        return
    for offer in offers:
        server = Deflate()
        agreed = server.accept(offer)
        assert server.enabled() == (agreed is not None)
        check(server, is_client=False)
        client = Deflate()
        try:
            client.finalize(offer)
        except HandshakeError as error:
            assert str(error)
            continue
        check(client, is_client=True)


def check(deflate: Deflate, *, is_client: bool) -> None:
    """Hold that parameters which were agreed on are ones that can be used."""
    codec = deflate.codec(is_client=is_client)
    if codec is None:
        return
    assert 9 <= codec.parameters.send_bits <= 15
    assert 8 <= codec.parameters.receive_bits <= 15
    payload = codec.deflate(TEXT)
    if codec.parameters.receive_bits >= codec.parameters.send_bits:
        assert codec.inflater().inflate(payload, len(TEXT), is_last=True) == TEXT
