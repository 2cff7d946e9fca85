"""Where states are: what requests go on from, what moves, and a token's own part."""

import torch

from pieria.ops import Slots

STATE = torch.arange(1.0, 9.0).view(4, 2)


def test_a_beginning_is_zeros_whatever_lies_in_the_cache() -> None:
    state = STATE.clone()
    state[0] = torch.nan  # the first slot stands in where nothing is read
    found = Slots.of((1, 2, 3), (2, -1, 1), (0, 3, 1)).before(state)
    assert found.tolist() == [[5.0, 6.0], [0.0, 0.0], [3.0, 4.0]]
    found += 1
    assert torch.equal(state[1:], STATE[1:]), "not a copy"


def test_fresh_slots_are_one_for_each_request() -> None:
    slots = Slots.fresh((3, 1), "meta")
    assert (slots.lengths, slots.reads, slots.writes) == ((3, 1), (-1, -1), (0, 1))
    assert slots.reads_R.device.type == slots.writes_R.device.type == "meta"


def test_bytes_are_of_what_is_read_and_written() -> None:
    row = 2 * 4
    assert Slots.of((1, 2, 3), (2, -1, 1), (0, 3, 1)).nbytes(STATE) == (2 + 3) * row
    assert Slots.fresh((5,)).nbytes(STATE) == row


def test_a_token_is_the_end_of_its_own_request() -> None:
    slots = Slots.of((3, 1, 2), (2, -1, 1), (0, 3, 1))
    found = [slots.token(i) for i in range(6)]
    assert [(rows.start, rows.stop) for rows, _ in found] == [
        (0, 1), (0, 2), (0, 3), (3, 4), (4, 5), (4, 6),
    ]  # fmt: skip
    assert [own.lengths for _, own in found] == [(1,), (2,), (3,), (1,), (1,), (2,)]
    assert [own.reads for _, own in found] == [(2,), (2,), (2,), (-1,), (1,), (1,)]
    assert all(own.writes_R.tolist() == list(own.writes) for _, own in found)
