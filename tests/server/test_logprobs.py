"""Log-probabilities in the shapes of answers."""

from pieria.engine.plan import Logprob
from pieria.server.logprobs import bounded, prompt_logprobs, token_logprob
from pieria.server.responses import TokenLogprob, TopLogprob
from tests.server.fakes import ToyTokenizer


def test_json_has_no_infinity() -> None:
    assert bounded(float("-inf")) == -9999.0
    assert bounded(-3.5) == -3.5


def test_chats_shape() -> None:
    one = Logprob(ord("c"), -4.0, 3, ((ord("b"), -0.5), (0xC3, float("-inf"))))
    assert token_logprob(one, ToyTokenizer()) == TokenLogprob(
        "c", -4.0, [99], [TopLogprob("b", -0.5, [98]), TopLogprob("\ufffd", -9999.0, [0xC3])]
    )


def test_tokens_that_the_model_has_and_the_tokenizer_has_not() -> None:
    """Models are padded; a random one is as likely to say them as any."""
    one = Logprob(300, -4.0, 3, ((301, -0.5), (ord("b"), -1.0)))
    assert token_logprob(one, ToyTokenizer()) == TokenLogprob(
        "", -4.0, [], [TopLogprob("", -0.5, []), TopLogprob("b", -1.0, [98])]
    )
    [shaped] = prompt_logprobs([one], ToyTokenizer())
    assert {k: v.decoded_token for k, v in shaped.items()} == {"300": "", "301": "", "98": "b"}


def test_prompt_logprobs_take_vllms_shape() -> None:
    likely = Logprob(ord("b"), -0.5, 1, ((ord("b"), -0.5), (ord("x"), -1.5)))
    unlikely = Logprob(ord("c"), float("-inf"), 9, ((ord("b"), -0.5),))
    first, second, third = prompt_logprobs([None, likely, unlikely], ToyTokenizer())
    assert first is None
    assert {k: (v.logprob, v.rank, v.decoded_token) for k, v in second.items()} == {
        "98": (-0.5, 1, "b"),
        "120": (-1.5, 2, "x"),
    }
    assert {k: (v.logprob, v.rank) for k, v in third.items()} == {
        "99": (-9999.0, 9),
        "98": (-0.5, 1),
    }
