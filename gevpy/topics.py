"""Who subscribes to what: the table behind ``subscribe`` and ``publish`` inside one worker.

Two dictionaries, one the mirror of the other: topic → its members, and member → its topics. The
second makes `Topics.leave` cost what the member subscribed to, not the number of topics. Members
and topics keep the order in which they came, so that delivery order is the same in every run.

A member in no topic has no entry anywhere, a topic without members does not exist, and an empty
table gives its memory back: an idle server with a million past subscriptions holds nothing of them.

No IO, no clock, and no knowledge of what a member is: anything hashable, a `Connection` in gevpy,
which compares by identity. Not thread-safe: the loop's thread owns a table.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Generic, TypeVar

from gevpy.errors import ConfigError

__all__ = ["MAX_TOPIC_BYTES", "Topics", "check_topic"]

#: The longest topic, in UTF-8 bytes: one length byte on the wire between processes, and no more
#: memory than that.
MAX_TOPIC_BYTES = 255

# Unicode category Cc. A line break in a topic would forge log lines and protocol lines of a message
# bus.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_SHOWN_CHARS = 40

M = TypeVar("M", bound=Hashable)


def check_topic(topic: object) -> None:
    """Refuse what cannot be a topic.

    A topic is a ``str`` of 1 to `MAX_TOPIC_BYTES` (255) bytes of UTF-8 without control characters
    (U+0000 to U+001F, U+007F to U+009F) and without lone surrogates. Case counts, nothing is
    normalised, no character is a wildcard. Since topics often come from a peer's message, each rule
    is a limit on what a peer can do.

    Args:
        topic: the name to check, straight from a peer's message if need be.

    Raises:
        TypeError: ``topic`` is no ``str``; ``bytes`` are not decoded for the caller.
        ConfigError: it is empty, too long, or has characters that are not allowed. The text shows
            at most the first 40 characters, escaped.
    """
    if not isinstance(topic, str):
        msg = f"a topic must be a str, not {type(topic).__name__}"
        raise TypeError(msg)
    shown = ascii(topic[:_SHOWN_CHARS])
    if not topic:
        msg = "a topic must not be empty"
        raise ConfigError(msg)
    # Characters first: a peer's oversized string is refused without being encoded.
    if len(topic) > MAX_TOPIC_BYTES or len(topic.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES:
        msg = f"topic {shown}... is longer than {MAX_TOPIC_BYTES} bytes of UTF-8"
        raise ConfigError(msg)
    if _CONTROL.search(topic):
        msg = f"topic {shown} contains a control character"
        raise ConfigError(msg)
    if any("\ud800" <= char <= "\udfff" for char in topic):
        msg = f"topic {shown} contains a lone surrogate, which UTF-8 cannot carry"
        raise ConfigError(msg)


class Topics(Generic[M]):
    """Which members subscribe to which topic.

    All methods but `leave`, `members` and `topics_of` are O(1); those cost what they return.
    ``len(topics)`` is the number of topics that have members.

    Members need a stable hash; they are held by a strong reference from their first `subscribe` to
    their last `unsubscribe`, or to `leave`, which the owner must call when the member goes away.

    Example:
        >>> topics: Topics[object] = Topics()
        >>> alice = object()
        >>> topics.subscribe("news", alice)
        True
        >>> topics.count("news")
        1
        >>> topics.leave(alice)
        ('news',)
        >>> len(topics)
        0
    """

    __slots__ = ("_members", "_topics")

    def __init__(self) -> None:
        """Start empty."""
        self._members: dict[str, dict[M, None]] = {}
        self._topics: dict[M, dict[str, None]] = {}

    def __len__(self) -> int:
        """Count the topics that have members."""
        return len(self._members)

    def __repr__(self) -> str:
        """Show how many topics and members there are."""
        return f"<Topics topics={len(self._members)} members={len(self._topics)}>"

    def subscribe(self, topic: str, member: M) -> bool:
        """Add a member to a topic, which comes into being with its first member.

        Args:
            topic: see `check_topic`.
            member: the subscriber.

        Returns:
            True if it is new; False if the member was in the topic already.

        Raises:
            TypeError: ``topic`` is no ``str``.
            ConfigError: ``topic`` breaks the rules of `check_topic`.
        """
        check_topic(topic)
        members = self._members.get(topic)
        if members is None:
            members = self._members[topic] = {}
        elif member in members:
            return False
        members[member] = None
        self._topics.setdefault(member, {})[topic] = None
        return True

    def unsubscribe(self, topic: str, member: M) -> bool:
        """Take a member out of a topic, which ends with its last member.

        Args:
            topic: any ``str``; one that is not a valid topic simply has no members.
            member: the subscriber.

        Returns:
            True if the member was in it; False if not.
        """
        topics = self._topics.get(member)
        if topics is None or topic not in topics:
            return False
        del topics[topic]
        if not topics:
            del self._topics[member]
        self._drop(topic, member)
        self._give_back()
        return True

    def leave(self, member: M) -> tuple[str, ...]:
        """Take a member out of all its topics: it is closing.

        Args:
            member: the subscriber; one in no topic is not an error.

        Returns:
            The topics it was in, in the order of subscription.
        """
        topics = self._topics.pop(member, None)
        if topics is None:
            return ()
        for topic in topics:
            self._drop(topic, member)
        self._give_back()
        return tuple(topics)

    def members(self, topic: str) -> tuple[M, ...]:
        """Give a topic's members, in the order of subscription; empty for an unknown topic.

        A snapshot: members may subscribe, unsubscribe and leave while the caller walks through it.
        One that has left meanwhile is still in it.

        Args:
            topic: any ``str``.
        """
        return tuple(self._members.get(topic, ()))

    def topics_of(self, member: M) -> tuple[str, ...]:
        """Give a member's topics, in the order of subscription, as a snapshot.

        Args:
            member: the subscriber; for one in no topic the answer is empty.
        """
        return tuple(self._topics.get(member, ()))

    def count(self, topic: str) -> int:
        """Count a topic's members, without a snapshot; 0 for an unknown topic.

        Args:
            topic: any ``str``.
        """
        return len(self._members.get(topic, ()))

    def _drop(self, topic: str, member: M) -> None:
        """Take a member out of the topic's half of the table."""
        members = self._members[topic]
        del members[member]
        if not members:
            del self._members[topic]

    def _give_back(self) -> None:
        """Free the tables once they are empty: a dict keeps the room of its largest size."""
        if not self._members:
            self._members.clear()
            self._topics.clear()
