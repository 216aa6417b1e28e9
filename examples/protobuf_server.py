"""Protobuf: messages of several types over one connection, in gev's frames. Each msg1 is answered with a msg2.

Run it:   python examples/protobuf_server.py [--port 1833]     (pip install gevpy[protobuf])
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import gevpy
from gevpy.protobuf import ProtobufProtocol

TEXT = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
NUMBER = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
TRY = "import socket; s = socket.create_connection(('127.0.0.1', {})); s.sendall({}); print(s.recv(99))"


def message_class(name: str, /, **fields: Any) -> Any:
    """Make a class of these fields: protoc's work, done here so that the example is one file."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="proto", syntax="proto3")
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        message.field.add(name=field, number=number, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"proto.{name}"))


Msg1 = message_class("Msg1", name=TEXT, id=NUMBER)
Msg2 = message_class("Msg2", name=TEXT, alias=TEXT, id=NUMBER)
PROTOCOL = ProtobufProtocol({"msg1": Msg1, "msg2": Msg2})


class Names(gevpy.Handler):
    """Gets decoded messages, and answers with messages."""

    def on_message(self, conn: gevpy.Connection, ctx: str, data: Any) -> Any:
        """Show what came; whoever tells a name gets an alias."""
        print(conn.peer_addr, ctx, " ".join(str(data).split()), flush=True)
        return Msg2(name=data.name, alias=f"big {data.name}", id=data.id) if ctx == "msg1" else None


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Answers protobuf messages.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    async with gevpy.serve(Names(), port=parser.parse_args().port, protocol=PROTOCOL) as server:
        frame = PROTOCOL.packet(None, Msg1(name="gevpy", id=1))
        print(f'try:  python3 -c "{TRY.format(server.addresses[0][1], frame)}"', flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gevpy.run(main())
