"""Steering a SO_REUSEPORT group: the program by itself, and on real sockets what the kernel makes of it."""

from __future__ import annotations

import ctypes
import errno
import logging
import select
import socket
import struct
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy.reuseport import MAX_MEMBERS, SO_DETACH_REUSEPORT_BPF, program, release, steer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INSTRUCTION = struct.Struct("=HBBI")
RANDOM_WORD = 0xFFFFF000 + 56
CONNECTS = 200
BATCH = 50  # below every backlog
DEADLINE_S = 10.0
RESET = struct.pack("ii", 1, 0)


# -- the program ---------------------------------------------------------------------------------------


def run(code: bytes, drawn: int) -> int:
    """Run a classic BPF program, with ``drawn`` for the kernel's random number; as strict as the kernel's checks."""
    instructions = list(INSTRUCTION.iter_unpack(code))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, number = instructions[at]
        at += 1
        if operation == 0x20:
            assert number == RANDOM_WORD, "no part of a packet is looked at"
            accumulator = drawn
        elif operation == 0x94:
            accumulator %= number
        elif operation == 0x15:
            at += if_true if accumulator == number else if_false
        elif operation == 0x06:
            return int(number)
        else:
            pytest.fail(f"unknown instruction {operation:#x}")


@given(
    members=st.lists(st.integers(0, 65535), min_size=1, max_size=128, unique=True),
    drawn=st.integers(0, (1 << 32) - 1),
)
def test_every_number_finds_its_member(members: list[int], drawn: int) -> None:
    """The member at the number modulo their count: each has the same share."""
    assert run(program(members), drawn) == members[drawn % len(members)]


@pytest.mark.parametrize("count", [1, 2, 3, 127, 128, MAX_MEMBERS])
def test_every_member_can_be_drawn(count: int) -> None:
    """From one to the most there can be, within the kernel's 4096 instructions."""
    members = range(7, 7 + count)
    code = program(members)
    assert len(code) <= 4096 * INSTRUCTION.size
    some = range(0, count, max(1, count // 128))
    assert [run(code, drawn) for drawn in (*some, count - 1)] == [members[number] for number in (*some, count - 1)]


@pytest.mark.parametrize("members", [[], [1, 1], [-1], [0, 65536], range(MAX_MEMBERS + 1)])
def test_members_that_cannot_be_are_refused(members: Sequence[int]) -> None:
    """None, one twice, out of range, too many: ValueError, before the kernel is asked."""
    with pytest.raises(ValueError, match="members"):
        program(members)
    with socket.socket() as sock, pytest.raises(ValueError, match="members"):
        steer(sock, members)


# -- where it can't be ---------------------------------------------------------------------------------


class Untouchable(socket.socket):
    """A socket whose options nobody may set."""

    def setsockopt(self, *args: Any) -> None:
        pytest.fail(f"set an option: {args}")


def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside Linux the options' numbers mean something else."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with Untouchable() as sock:
        assert not steer(sock, [0])
        assert not release(sock)


def test_a_refusal_is_false_and_its_cause_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Here the refusal of a socket that shares its address with nobody."""
    with caplog.at_level(logging.DEBUG, "gevpy.server"), socket.create_server(("127.0.0.1", 0)) as alone:
        assert not steer(alone, [0])
        assert not release(alone)
    assert "SO_REUSEPORT" in caplog.text or sys.platform != "linux"
    assert not steer(alone, [0])  # closed
    assert not release(alone)


# -- what the kernel makes of it -----------------------------------------------------------------------


def _refusal() -> str:
    """Give the error of attaching the smallest program there is, made by hand; empty if the kernel takes it."""
    held = ctypes.create_string_buffer(INSTRUCTION.pack(0x06, 0, 0, 0))
    with listening(1) as (sock,):
        try:
            sock.setsockopt(socket.SOL_SOCKET, 51, struct.pack("HP", 1, ctypes.addressof(held)))
        except OSError as error:
            return str(error)
    return "" if sys.platform == "linux" else f"{sys.platform} has something else under this number"


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@contextmanager
def listening(count: int, host: str = "127.0.0.1", order: Sequence[int] | None = None) -> Iterator[list[socket.socket]]:
    """Bind ``count`` sockets to one port, put them to listen in ``order``, and give them as they were bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        members: list[socket.socket] = []
        port = 0
        for _ in range(count):
            members.append(stack.enter_context(bound(family, (host, port))))
            port = members[0].getsockname()[1]
        for number in range(count) if order is None else order:
            members[number].listen(CONNECTS)
        yield members


def bound(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """Bind a socket that may share its address, and doesn't listen yet."""
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(address)
    return sock


def spread(members: Sequence[socket.socket], connects: int = CONNECTS, host: str | None = None) -> list[int]:
    """Connect so many times, accept them all, and count who got how many."""
    name = members[0].getsockname()
    counts = [0] * len(members)
    for start in range(0, connects, BATCH):
        batch = min(BATCH, connects - start)
        with ExitStack() as clients:
            for _ in range(batch):
                clients.enter_context(connected((host or name[0], name[1])))
            for number in accepted(members, batch):
                counts[number] += 1
    return counts


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[None]:
    """Connect, and leave without a trace in TIME_WAIT."""
    with socket.create_connection(address, timeout=DEADLINE_S) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        yield


def accepted(members: Sequence[socket.socket], count: int) -> Iterator[int]:
    """Accept ``count`` connections, wherever they are, and tell where each was."""
    while count:
        ready, _, _ = select.select(members, [], [], DEADLINE_S)
        assert ready, f"{count} connections never came to anybody"
        for member in ready:
            member.accept()[0].close()
            yield members.index(member)
            count -= 1


def holder(members: Sequence[socket.socket], index: int) -> socket.socket:
    """Find out who has this index in the group."""
    assert steer(members[0], [index])
    counts = spread(members, 12)
    (found,) = (member for member, count in zip(members, counts, strict=True) if count)
    return found


REFUSAL = _refusal()
needs_steering = pytest.mark.skipif(bool(REFUSAL), reason=f"the kernel refuses: {REFUSAL}")
needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_steering
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_only_the_chosen_get_connections(host: str) -> None:
    """Four members, two chosen: they get all, in equal shares; after the release each gets some."""
    with listening(4, host) as members:
        assert steer(members[0], [1, 3])
        first, second, third, fourth = spread(members)
        assert (first, third) == (0, 0)
        assert second + fourth == CONNECTS
        assert min(second, fourth) > CONNECTS // 4  # 7 standard deviations
        assert release(members[2])
        assert all(spread(members))


@needs_steering
@needs_ipv6
def test_ipv4_peers_of_a_dual_stack_group_are_steered() -> None:
    """Both families reach the one member."""
    with listening(3, "::") as members:
        assert steer(members[0], [2])
        assert spread(members, BATCH, "127.0.0.1") == [0, 0, BATCH]
        assert spread(members, BATCH, "::1") == [0, 0, BATCH]


@needs_steering
def test_each_choice_replaces_the_last() -> None:
    """Through whichever member it is made."""
    with listening(3) as members:
        for number in (0, 2, 1):
            assert steer(members[number], [number])
            assert spread(members, BATCH)[number] == BATCH


@needs_steering
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
def test_the_index_is_the_place_in_the_order_of_listen(order: Sequence[int]) -> None:
    """Not of ``bind``."""
    with listening(4, order=order) as members:
        assert [holder(members, index) for index in range(4)] == [members[number] for number in order]


@needs_steering
@pytest.mark.parametrize("leave", ["close", "shutdown"])
def test_the_last_takes_over_the_index_of_one_that_leaves(leave: str) -> None:
    """All others keep theirs; and one that listens anew goes to the end."""
    with listening(5) as members:
        first, second, third, fourth, fifth = members
        if leave == "close":
            address = second.getsockname()
            second.close()
            back = bound(socket.AF_INET, address)
        else:
            second.shutdown(socket.SHUT_RD)
            back = second
        assert [holder([first, third, fourth, fifth], index) for index in range(4)] == [first, fifth, third, fourth]
        with back:
            back.listen(CONNECTS)
            everybody = [first, third, fourth, fifth, back]
            assert [holder(everybody, index) for index in range(5)] == [first, fifth, third, fourth, back]


@needs_steering
def test_a_member_leaves_with_its_last_descriptor() -> None:
    """Closing one of two, in whichever process, moves nobody."""
    with listening(3) as members, members[0].dup() as other:
        members[0].close()
        group = [other, members[1], members[2]]
        assert [holder(group, index) for index in range(3)] == group


@needs_steering
def test_a_newcomer_gets_nothing_until_the_next_choice() -> None:
    """The choice stays as it was while the group grows."""
    with listening(2) as members:
        assert steer(members[0], [0, 1])
        with bound(socket.AF_INET, members[0].getsockname()) as newcomer:
            newcomer.listen(CONNECTS)
            group = [*members, newcomer]
            assert spread(group)[2] == 0
            assert steer(newcomer, [0, 1, 2])
            assert all(spread(group))


@needs_steering
def test_a_socket_that_does_not_listen_yet_is_left_alone() -> None:
    """With a program of its own it could never join the group."""
    with listening(2) as members, bound(socket.AF_INET, members[0].getsockname()) as newcomer:
        assert not steer(newcomer, [0])
        newcomer.listen(CONNECTS)
        assert all(spread([*members, newcomer]))


@needs_steering
def test_an_index_out_of_range_is_left_to_the_hash() -> None:
    """Nobody is refused: those connections go to anybody."""
    with listening(4) as members:
        assert steer(members[0], [4])
        assert all(spread(members))
        assert steer(members[0], [0, 9])
        counts = spread(members)
        assert all(counts)
        assert counts[0] > CONNECTS // 2 - 50  # its own half; then a part of the other


@needs_steering
def test_connections_that_wait_stay_where_they_are() -> None:
    """Who stood in a member's queue when it was left out is still to be accepted from there."""
    with listening(2) as members, ExitStack() as clients:
        assert steer(members[0], [0])
        for _ in range(BATCH):
            clients.enter_context(connected(members[0].getsockname()))
        assert steer(members[0], [1])
        assert list(accepted(members, BATCH)) == [0] * BATCH
        assert spread(members, BATCH) == [0, BATCH]


@needs_steering
def test_the_kernel_takes_a_program_for_128_members() -> None:
    """And keeps serving."""
    with listening(2) as members:
        assert steer(members[0], range(128))
        assert sum(spread(members)) == CONNECTS


@needs_steering
def test_release_is_idempotent() -> None:
    """True also where nothing was steered."""
    with listening(2) as members:
        assert release(members[0])
        assert steer(members[0], [0])
        assert release(members[0])
        assert release(members[0])
        assert all(spread(members))


class BeforeDetaching(socket.socket):
    """A socket of a kernel that can attach a program and not detach it."""

    def setsockopt(self, level: int, option: int, value: Any, *rest: Any) -> None:
        if option == SO_DETACH_REUSEPORT_BPF:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, value, *rest)


@needs_steering
def test_release_where_the_kernel_cannot_detach() -> None:
    """A program takes the other's place that leaves everything to the hash."""
    with listening(3) as members, BeforeDetaching(fileno=members[0].dup().detach()) as old:
        assert steer(old, [0])
        assert spread(members, BATCH) == [BATCH, 0, 0]
        assert release(old)
        assert all(spread(members))
