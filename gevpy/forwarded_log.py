"""A worker's log records: they go to the supervisor, whose logging the application has set up."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from gevpy.control import encode
from gevpy.control_messages import Logged, Stuck

if TYPE_CHECKING:
    import socket

    from gevpy.blocked import Blocked
    from gevpy.control import Channel

__all__ = ["LOG_CHARACTERS", "ForwardedLog", "levels"]

NAME_CHARACTERS = 200
LOG_CHARACTERS = 4_000  # of up to 12 bytes each, in JSON


class ForwardedLog(logging.Handler):
    """Hands records to the supervisor, whose logging the application has set up.

    Those of the loop's thread go in order with everything else; those of other threads take a way of their own, so that
    a watchdog can tell of a loop that is blocked.

    Args:
        channel: the control channel, for the loop's thread; made in that thread.
        alarm: a socket for the others.
        levels: of the supervisor's loggers, by name.
    """

    def __init__(self, channel: Channel, alarm: socket.socket, levels: dict[str, int]) -> None:
        """Set up; nothing is forwarded before `take_over`."""
        super().__init__()
        self._channel = channel
        self._alarm = alarm
        self._alarm.settimeout(0)
        self._levels = levels
        self._loop_thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, or drop it if the supervisor doesn't read; logging holds a lock meanwhile."""
        try:
            message = Logged(record.name[:NAME_CHARACTERS], record.levelno, self.format(record)[:LOG_CHARACTERS])
            if threading.get_ident() == self._loop_thread:
                self._channel.send(message)
            else:
                self._send_alarm(encode(message))
        except Exception:  # noqa: BLE001 - as every logging handler does: the application must not fail for it
            self.handleError(record)

    def tell_stuck(self, blocked: Blocked) -> None:
        """Tell the supervisor what blocks the loop; from another thread than the loop's."""
        self._send_alarm(encode(Stuck(blocked.where, blocked.kind)))

    def _send_alarm(self, data: bytes) -> None:
        with suppress(OSError):
            if self._alarm.send(data) < len(data):
                self._alarm.close()  # half a message has left: nothing after it could be understood

    def take_over(self) -> None:
        """Have all loggers forward, and nothing else: the same code gave the supervisor's the same handlers.

        Modules set up logging when they are imported; so this is done once more after the application's were.
        """
        for logger in _loggers():
            logger.propagate = True
            for handler in tuple(logger.handlers):
                if not isinstance(handler, logging.NullHandler):
                    logger.removeHandler(handler)
        for name, level in self._levels.items():
            logging.getLogger(name or None).setLevel(level)
        logging.getLogger().addHandler(self)


def levels() -> dict[str, int]:
    """Give the levels that this process's loggers were set to, by name; the root's under ``""``."""
    return {"" if one.parent is None else one.name: one.level for one in _loggers() if one.level or one.parent is None}


def _loggers() -> list[logging.Logger]:
    known = tuple(logging.Logger.manager.loggerDict.values())
    return [logging.getLogger(), *(one for one in known if isinstance(one, logging.Logger))]
