"""Server state: when work is taken, and what is told when it is not."""

import asyncio

import pytest

from pieria.clock import RealTime
from pieria.server.errors import ApiError
from pieria.server.state import ServerState
from tests.server.fakes import FakeClient, Toy


def status(call: object) -> tuple[int, str]:
    with pytest.raises(ApiError) as raised:
        call()  # type: ignore[operator]
    assert "retry-after" in raised.value.headers
    return raised.value.status, raised.value.message


def test_work_is_taken_between_loading_and_draining() -> None:
    toy = Toy()
    state = toy.state
    assert status(state.ready) == (503, "the server is starting: the model is not loaded yet")
    state.served = toy.served
    assert state.accepting() is state.ready() is toy.served
    state.draining = True
    assert status(state.accepting)[1].startswith("the server is shutting down")
    assert state.ready() is toy.served
    toy.client.failure = "out of memory in layer 3"
    code, message = status(state.ready)
    assert (code, "layer" in message) == (503, False)


async def test_ending_cancels_all_work() -> None:
    state = Toy().state
    tasks = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(3)]
    state.in_flight.update(tasks)
    state.end("the server is ending")
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)
    assert (state.cancelled().status, state.cancelled().message) == (503, "the server is ending")


def test_a_model_needs_a_name() -> None:
    with pytest.raises(ValueError, match="served_model_name"):
        ServerState((), "1", FakeClient(), RealTime())


def test_longer_texts_cannot_fit() -> None:
    # The toy's longest tokens are its special ones, of five bytes.
    toy = Toy()
    assert toy.served.most_prompt_bytes == 5 * toy.served.engine.max_model_len
