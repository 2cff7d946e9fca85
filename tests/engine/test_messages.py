"""What is sent is what arrives, and what is not a message is refused."""

import math
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.engine.messages import (
    Abort,
    Add,
    Command,
    Failed,
    FromEngine,
    Output,
    Progress,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stats,
    ToEngine,
)
from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams
from tests.engine.profiles import STEADY

TEXT = st.text(max_size=8)
TOKEN = st.integers(0, 2**31 - 1)
TOKENS = st.lists(TOKEN, max_size=5).map(tuple)
UNIT = st.floats(0, 1, exclude_min=True)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


PARAMS = st.builds(
    SamplingParams,
    n=st.integers(1, 128),
    temperature=st.floats(0, 100) | st.integers(0, 100),
    top_p=UNIT,
    top_k=st.integers(-1, 99),
    min_p=UNIT,
    seed=optional(st.integers(-(2**63), 2**63 - 1)),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    repetition_penalty=UNIT,
    logit_bias=optional(st.dictionaries(TOKEN, st.floats(-100, 100), max_size=3)),
    stop=optional(st.text(min_size=1, max_size=5) | st.lists(st.text(min_size=1), max_size=3)),
    stop_token_ids=optional(st.lists(TOKEN, max_size=3)),
    include_stop_str_in_output=st.booleans(),
    ignore_eos=st.booleans(),
    max_tokens=optional(st.integers(9, 99)),
    min_tokens=st.integers(0, 9),
    logprobs=optional(st.integers(0, 100)),
    prompt_logprobs=optional(st.integers(0, 100)),
    skip_special_tokens=st.booleans(),
)
LOGPROB = st.builds(
    Logprob,
    token=TOKEN,
    logprob=st.floats(max_value=0),
    rank=st.integers(1, 2**31),
    top=st.lists(st.tuples(TOKEN, st.floats(max_value=0)), max_size=3).map(tuple),
)
LOGPROBS = st.lists(LOGPROB, max_size=3).map(tuple)
COUNT = st.integers(0, 2**63 - 1)
STATS = st.builds(Stats, **dict.fromkeys(Stats.__struct_fields__, COUNT))
OUTPUT = st.builds(
    Output,
    id=TEXT,
    tokens=TOKENS,
    logprobs=LOGPROBS,
    prompt_logprobs=LOGPROBS,
    cached_tokens=COUNT,
    finish_reason=optional(st.sampled_from(["stop", "length", "abort", "error"])),
    stop_reason=optional(TOKEN),
    error=optional(TEXT),
)
TO_ENGINE = st.one_of(
    st.builds(
        Add,
        id=TEXT,
        tokens=TOKENS,
        params=PARAMS,
        seed=st.integers(-(2**63), 2**64 - 1),
        max_tokens=st.integers(1, 99),
        choice=st.integers(0, 127),
        leader=optional(TEXT),
        priority=st.integers(-(2**31), 2**31),
        salt=TEXT,
        adapter=TEXT,
    ),
    st.builds(Abort, st.lists(TEXT, max_size=3).map(tuple)),
    st.just(Shutdown()),
    st.builds(Command, COUNT, TEXT, TEXT),
    st.builds(
        Start,
        st.dictionaries(
            TEXT,
            st.recursive(
                st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
                lambda inner: (
                    st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2)
                ),
                max_leaves=4,
            ),
            max_size=3,
        ),
    ),
)
FROM_ENGINE = st.one_of(
    st.builds(
        Ready,
        max_model_len=COUNT,
        vocabulary=COUNT,
        stats=STATS,
        decisions=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2).map(tuple),
    ),
    st.builds(Progress, st.lists(OUTPUT, max_size=3).map(tuple), STATS, st.booleans()),
    st.builds(Reply, COUNT, TEXT, optional(TEXT)),
    st.builds(Failed, TEXT),
)


def received(message: object, kinds: Any) -> object:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kinds)


@STEADY
@given(TO_ENGINE)
def test_what_the_front_sends_arrives(message: object) -> None:
    arrived = received(message, ToEngine)
    assert type(arrived) is type(message)
    assert arrived == message


@STEADY
@given(FROM_ENGINE)
def test_what_the_engine_sends_arrives(message: object) -> None:
    arrived = received(message, FromEngine)
    assert type(arrived) is type(message)
    assert arrived == message


def test_every_message_is_sent_here() -> None:
    assert set(get_args(ToEngine)) == {Start, Add, Abort, Command, Shutdown}
    assert set(get_args(FromEngine)) == {Ready, Progress, Reply, Failed}


def test_tuples_of_stops_arrive_as_lists() -> None:
    params = SamplingParams(stop=("a", "b"), stop_token_ids=(1, 2))
    arrived = received(add(params=params), ToEngine)
    assert isinstance(arrived, Add)
    assert (arrived.params.stops, arrived.params.stop_token_ids) == (("a", "b"), [1, 2])


def test_an_impossible_token_has_minus_infinity() -> None:
    output = Output("a", (1,), (Logprob(1, -math.inf, 5, ((2, -math.inf),)),))
    assert received(Progress((output,), Stats(), True), FromEngine) == Progress(
        (output,), Stats(), True
    )


def add(**changes: Any) -> Add:
    known: dict[str, Any] = {"id": "a", "tokens": (1,), "params": SamplingParams(), "seed": 0}
    return Add(**{**known, "max_tokens": 1, **changes})


def as_data(message: object) -> dict[str, Any]:
    data = msgspec.to_builtins(message)
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"type": "Nothing"}, "Invalid value 'Nothing'"),
        ({"type": "Progress"}, "Invalid value 'Progress'"),
        ({"type": 3}, "Expected `str`"),
        ({"id": 3}, "Expected `str`, got `int` - at `$.id`"),
        ({"tokens": ["1"]}, "Expected `int`, got `str` - at `$.tokens"),
        ({"tokens": [1.5]}, "Expected `int`, got `float`"),
        ({"tokens": [True]}, "Expected `int`, got `bool`"),
        ({"tokens": 1}, "Expected `array`"),
        ({"seed": None}, "at `$.seed`"),
        ({"max_tokens": "9"}, "Expected `int`, got `str` - at `$.max_tokens`"),
        ({"leader": 3}, "at `$.leader`"),
        ({"params": None}, "at `$.params`"),
        ({"params": {"n": "1"}}, "at `$.params.n`"),
        ({"params": {"logit_bias": {"a": 1.0}}}, "at `key` in `$.params.logit_bias`"),
        ({"params": {"temperature": -1.0}}, "temperature=-1.0 must be a number from 0.0 to 100.0"),
        ({"params": {"n": 0}}, "n=0 must be an integer from 1 to 128"),
    ],
)
def test_a_wrong_request_is_refused(change: dict[str, Any], text: str) -> None:
    data = {**as_data(add()), **change}
    with pytest.raises(msgspec.ValidationError) as refused:
        received(data, ToEngine)
    assert text in str(refused.value)


@pytest.mark.parametrize("field", ["type", "id", "tokens", "params", "seed", "max_tokens"])
def test_what_a_request_needs(field: str) -> None:
    data = as_data(add())
    del data[field]
    with pytest.raises(msgspec.ValidationError, match=f"missing required field `{field}`"):
        received(data, ToEngine)


@pytest.mark.parametrize(
    "message", [Ready(1, 2, Stats()), Progress((), Stats(), True), Failed("x")]
)
def test_the_engine_takes_no_message_of_its_own(message: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        received(message, ToEngine)


@pytest.mark.parametrize("message", [add(), Abort(("a",)), Shutdown(), Start({})])
def test_the_front_takes_no_message_of_its_own(message: object) -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        received(message, FromEngine)


@pytest.mark.parametrize("data", [None, 1, [], "Shutdown", ["Shutdown"], {}])
def test_what_is_no_message_at_all(data: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        received(data, ToEngine)


@STEADY
@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        message = msgspec.msgpack.decode(data, type=ToEngine)
    except msgspec.DecodeError:
        return
    assert isinstance(message, ToEngine)


@STEADY
@given(TO_ENGINE, st.data())
def test_a_message_cut_short_is_refused(message: object, data: st.DataObject) -> None:
    whole = msgspec.msgpack.encode(message)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(part, type=ToEngine)


def test_messages_do_not_change() -> None:
    for message in (add(), Abort(("a",)), Output("a"), Stats(), Failed("x")):
        with pytest.raises(AttributeError):
            setattr(message, message.__struct_fields__[0], None)
