"""Topics: subscriptions, snapshots, what may be a topic, and that nothing stays behind."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy.errors import ConfigError
from gevpy.topics import MAX_TOPIC_BYTES, Topics, check_topic


class Member:
    """Compares by identity, like a Connection."""


def test_subscribe_is_true_once() -> None:
    """The first subscription is new, the second changes nothing."""
    topics: Topics[Member] = Topics()
    member = Member()
    assert topics.subscribe("news", member)
    assert not topics.subscribe("news", member)
    assert topics.members("news") == (member,)
    assert topics.topics_of(member) == ("news",)
    assert (topics.count("news"), len(topics)) == (1, 1)


def test_unsubscribe_is_true_once() -> None:
    """Leaving a topic twice, or one never joined, is False."""
    topics: Topics[Member] = Topics()
    member, other = Member(), Member()
    topics.subscribe("a", member)
    topics.subscribe("b", member)
    topics.subscribe("a", other)
    assert topics.unsubscribe("a", member)
    assert not topics.unsubscribe("a", member)
    assert not topics.unsubscribe("b", other)
    assert not topics.unsubscribe("never", Member())
    assert topics.members("a") == (other,)
    assert topics.topics_of(member) == ("b",)


def test_leave_takes_a_member_out_of_everything() -> None:
    """A closing member leaves all its topics, and only it does; again is harmless."""
    topics: Topics[Member] = Topics()
    going, staying = Member(), Member()
    for name in ("b", "a", "c"):
        topics.subscribe(name, going)
    topics.subscribe("a", staying)
    assert topics.leave(going) == ("b", "a", "c")
    assert topics.leave(going) == ()
    assert topics.topics_of(going) == ()
    assert topics.members("a") == (staying,)
    assert len(topics) == 1


def test_members_come_in_the_order_of_subscription() -> None:
    """Delivery order is the order of subscription, also after a return."""
    topics: Topics[int] = Topics()
    for number in (3, 1, 2):
        topics.subscribe("t", number)
    topics.unsubscribe("t", 3)
    topics.subscribe("t", 3)
    assert topics.members("t") == (1, 2, 3)


def test_a_snapshot_survives_leaving() -> None:
    """Members may leave and join while a caller walks through a topic."""
    topics: Topics[int] = Topics()
    for number in range(10):
        topics.subscribe("t", number)
    seen = []
    for number in topics.members("t"):
        seen.append(number)
        topics.leave(number)
        topics.subscribe("t", number + 100)
    assert seen == list(range(10))
    assert topics.count("t") == 10


def test_an_unknown_topic_is_empty() -> None:
    """Asking about a topic does not make it."""
    topics: Topics[Member] = Topics()
    assert topics.members("x") == ()
    assert topics.count("x") == 0
    assert topics.topics_of(Member()) == ()
    assert len(topics) == 0


def test_members_are_told_apart_by_identity() -> None:
    """Two members alike are two members."""
    topics: Topics[Member] = Topics()
    topics.subscribe("t", Member())
    topics.subscribe("t", Member())
    assert topics.count("t") == 2


@pytest.mark.parametrize("topic", ["a", "room.1/x y", "Ünïcode ☃", "a" * 255, "é" * 127, "\u2028"])
def test_ordinary_names_are_topics(topic: str) -> None:
    """Any text of up to 255 bytes of UTF-8 without control characters will do."""
    check_topic(topic)
    assert Topics[int]().subscribe(topic, 1)


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("", "empty"),
        ("a" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("a" * 10_000_000, "longer than 255 bytes"),
        ("a\nb", "control character"),
        ("\x00", "control character"),
        ("a\x7f", "control character"),
        ("\x85", "control character"),
        ("\ud800", "surrogate"),
    ],
    ids=["empty", "256", "utf8", "huge", "newline", "nul", "del", "c1", "surrogate"],
)
def test_other_names_are_refused(topic: str, text: str) -> None:
    """A bad name is a ConfigError whose text is short and printable; nothing is changed."""
    topics: Topics[int] = Topics()
    with pytest.raises(ConfigError, match=text) as caught:
        topics.subscribe(topic, 1)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    assert len(topics) == 0
    assert not topics.unsubscribe(topic, 1)


@pytest.mark.parametrize("topic", [None, 3, b"bytes", ["list"]])
def test_what_is_no_text_is_a_type_error(topic: Any) -> None:
    """Bytes are not decoded behind the caller's back."""
    with pytest.raises(TypeError, match="must be a str"):
        Topics[int]().subscribe(topic, 1)


def test_an_empty_table_gives_its_memory_back() -> None:
    """After 20,000 subscriptions came and went, the table is as small as a new one."""
    topics: Topics[int] = Topics()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            topics.subscribe(f"topic {number % 1_000}", number)
        for number in range(20_000):
            if number % 2:
                topics.leave(number)
            else:
                topics.unsubscribe(f"topic {number % 1_000}", number)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(topics) == 0
    assert after - before < 2_048


def test_a_table_says_its_size() -> None:
    """The repr counts topics and members; a member in no topic costs no reference."""
    topics: Topics[Member] = Topics()
    member = Member()
    held = sys.getrefcount(member)
    topics.subscribe("t", member)
    assert repr(topics) == "<Topics topics=1 members=1>"
    topics.unsubscribe("t", member)
    assert sys.getrefcount(member) == held
    assert repr(topics) == "<Topics topics=0 members=0>"


names = st.sampled_from(["a", "b", "c"])
people = st.integers(0, 4)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), names, people),
        st.tuples(st.just("unsubscribe"), names, people),
        st.tuples(st.just("leave"), names, people),
    ),
    max_size=60,
)


@given(operations)
def test_both_halves_agree_with_a_set_of_pairs(script: list[tuple[str, str, int]]) -> None:
    """Any sequence of operations leaves the table equal to a plain set of pairs."""
    topics: Topics[int] = Topics()
    model: set[tuple[str, int]] = set()
    for action, name, person in script:
        pair = (name, person)
        if action == "subscribe":
            assert topics.subscribe(name, person) is (pair not in model)
            model.add(pair)
        elif action == "unsubscribe":
            assert topics.unsubscribe(name, person) is (pair in model)
            model.discard(pair)
        else:
            left = {other for other in model if other[1] == person}
            assert {(topic, person) for topic in topics.leave(person)} == left
            model -= left
        assert len(topics) == len({topic for topic, _ in model})
        for topic in ("a", "b", "c"):
            members = {member for other, member in model if other == topic}
            assert set(topics.members(topic)) == members
            assert topics.count(topic) == len(members)
        assert set(topics.topics_of(person)) == {t for t, other in model if other == person}


def test_the_limit_is_public() -> None:
    """The bound can be named in an application's own checks."""
    assert MAX_TOPIC_BYTES == 255
