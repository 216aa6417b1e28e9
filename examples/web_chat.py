"""A chat for browsers: the page, its WebSocket and a health check on one port.

Run it:   python examples/web_chat.py [--port 1833] [--workers 1]    and open http://127.0.0.1:1833/ twice

    /                        the page, web_chat.html, which reconnects by itself
    /healthz                 "ok", for whoever watches over the server
    /chat?room=tea&name=Ann  the WebSocket: text is what Ann says in that room; what comes is JSON

    {"kind": "welcome", "id": "6f0c"}                                    first of all: who I am
    {"kind": "said", "id": "6f0c", "name": "Ann", "text": "hello"}       to everybody in the room, me as well
    {"kind": "here", "worker": "a1", "names": ["Ann", "Bob"], "more": 0} who is there, by worker; stale after 5 s
    {"kind": "refused", "text": "hello"}                                 too much in too short a time: nobody got it

Rooms are topics, so that a message reaches everybody, whichever worker process has the connection. No worker knows who
is on the others; the page puts their lists together, and forgets those of workers that went away.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import secrets
import time
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import gevpy
from gevpy.websocket import Opcode, Request, Response, WebSocketProtocol

PAGE = Path(__file__).with_name("web_chat.html")
MAX_MESSAGE, MAX_NAME, MAX_SHOWN = 4096, 24, 100  # bytes, characters, names in a list
BURST, PER_SECOND = 8.0, 1.5  # messages of one guest
BEAT_S, BEATS_PER_LIST = 0.2, 10


@dataclass
class Guest:
    """Somebody in a room; the connection's ``context``."""

    room: str
    name: str
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    budget: float = BURST
    spoke_at: float = field(default_factory=time.monotonic)

    def may_speak(self) -> bool:
        """Take one message off the budget, which grows as time passes."""
        now = time.monotonic()
        self.budget = min(BURST, self.budget + (now - self.spoke_at) * PER_SECOND)
        self.spoke_at = now
        if self.budget < 1:
            return False
        self.budget -= 1
        return True


class Chat(gevpy.Handler):
    """Rooms, as far as their guests are on this worker."""

    def on_start(self, worker: gevpy.Worker) -> None:
        """Read the page, and start the clock that tells who is here."""
        self.page = page()
        self.rooms: dict[str, set[gevpy.Connection]] = defaultdict(set)
        self.changed: set[str] = set()
        self.token = secrets.token_hex(4)  # a worker's successor has the same number, and other guests
        self.beats = 0
        worker.run_every(BEAT_S, self.tell_who_is_here, worker)

    def on_request(self, conn: gevpy.Connection, request: Request) -> Response | None:
        """Give the page, or let a guest in: None goes on to the WebSocket."""
        path = request.path
        if path == "/":
            return self.page
        if path == "/healthz":
            return Response(200, "ok")
        if path != "/chat":
            return Response(404, "no such page")
        room, name = clean(request.query.get("room", "")), clean(request.query.get("name", ""))
        if not room or not name:
            return Response(400, "there must be a room and a name")
        conn.context = Guest(room, name)
        return None

    def on_connect(self, conn: gevpy.Connection) -> None:
        """Lead a guest to the room."""
        guest: Guest = conn.context
        conn.subscribe(guest.room)
        conn.send(json.dumps({"kind": "welcome", "id": guest.id}))
        self.rooms[guest.room].add(conn)
        self.changed.add(guest.room)

    def on_message(self, conn: gevpy.Connection, ctx: Opcode, data: str | bytes) -> str | None:
        """Tell the room what a guest says."""
        guest: Guest = conn.context
        if not isinstance(data, str):
            conn.close(1003, "text only")
        elif not guest.may_speak():
            return json.dumps({"kind": "refused", "text": data})
        elif text := data.strip():
            said = {"kind": "said", "id": guest.id, "name": guest.name, "text": text}
            conn.worker.publish(guest.room, json.dumps(said))
        return None

    def on_close(self, conn: gevpy.Connection, reason: gevpy.CloseReason) -> None:
        """Forget a guest; the subscription has ended by itself."""
        guest: Guest = conn.context
        self.rooms[guest.room].discard(conn)
        self.changed.add(guest.room)

    def tell_who_is_here(self, worker: gevpy.Worker) -> None:
        """Tell the rooms where somebody came or left, and now and then all: others may have new guests to tell."""
        self.beats += 1
        changed, self.changed = self.changed, set()
        for room in list(self.rooms) if self.beats % BEATS_PER_LIST == 0 else changed:
            names = sorted(conn.context.name for conn in self.rooms[room])
            here = {"worker": self.token, "names": names[:MAX_SHOWN], "more": len(names[MAX_SHOWN:])}
            worker.publish(room, json.dumps({"kind": "here", **here}))
            if not names:
                del self.rooms[room]


def clean(text: str) -> str:
    """Give a name as it is shown: one line that can be read, and not too long."""
    words = " ".join(unicodedata.normalize("NFKC", text).split())
    return "".join(each for each in words if each.isprintable())[:MAX_NAME].strip()


def page() -> Response:
    """Give the page; the browser may run and load only what is in it, and connect only to here."""
    text = PAGE.read_text(encoding="utf-8")
    policy = ["default-src 'none'", "connect-src 'self'", "img-src data:"]
    policy += ["base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    for kind in ("script", "style"):
        inline = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in inline]
        policy.append(" ".join([f"{kind}-src", *(f"'sha256-{each}'" for each in hashes)]))
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(200, text, content_type="text/html; charset=utf-8", headers=headers)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A chat for browsers.")
    parser.add_argument("--port", "-port", type=int, default=1833, help="default %(default)s; 0: any")
    parser.add_argument("--workers", type=int, default=1, help="processes; default %(default)s")
    options = parser.parse_args()
    protocol = WebSocketProtocol(max_message_bytes=MAX_MESSAGE)
    async with gevpy.serve(Chat(), port=options.port, protocol=protocol, workers=options.workers) as server:
        print(f"try:  http://127.0.0.1:{server.addresses[0][1]}/    (in two windows)", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    gevpy.run(main())
