"""`LLM` on a tiny checkpoint: vLLM's names and shapes, and nothing left behind."""

import asyncio
import gc
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pieria
from pieria import LLM, SamplingParams
from pieria.clock import RealTime
from pieria.engine.cause import EngineDead, RequestFailed
from pieria.llm import Logprob, RequestOutput
from pieria.models.catalog import CATALOG, PackagedModel
from tests.models import tiny

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{{ name or '' }}{% endif %}"
)
OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1, "kv_cache_memory_bytes": 2 << 20}
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def reference() -> Any:
    return tiny.model("Llama")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(str(folder), **OPTIONS) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    clock = RealTime()
    deadline = clock.now() + 20
    while not condition():
        assert clock.now() < deadline, "it did not happen"
        clock.sleep(0.005)


def idle(llm: LLM) -> bool:
    return (llm.stats.running, llm.stats.waiting, llm.stats.pages_held) == (0, 0, 0)


def greedy(reference: Any, prompt: list[int], count: int) -> list[int]:
    """The loop over transformers' own model."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(tiny.logits(reference, torch.tensor(tokens))[-1].argmax()))
    return tokens[len(prompt) :]


def test_texts_and_ids(llm: LLM, reference: Any) -> None:
    ids = llm.tokenizer.encode("Hello")
    assert len(ids) == 5
    text, tokens = llm.generate(["Hello", [7, 8, 9]], GREEDY, progress=False)
    assert (text.prompt, text.prompt_token_ids) == ("Hello", ids)
    assert (tokens.prompt, tokens.prompt_token_ids) == (None, [7, 8, 9])
    for output in (text, tokens):
        [choice] = output.outputs
        assert choice.token_ids == greedy(reference, output.prompt_token_ids, 8)
        assert choice.text == llm.tokenizer.decode(choice.token_ids)
        assert (choice.index, choice.finish_reason, choice.stop_reason) == (0, "length", None)
        assert choice.logprobs is None and choice.cumulative_logprob is None
        assert output.prompt_logprobs is None


def test_one_prompt_need_not_be_a_list(llm: LLM) -> None:
    batch = llm.generate(["Hello", [7, 8]], GREEDY, progress=False)
    assert llm.generate("Hello", GREEDY, progress=False)[0].outputs == batch[0].outputs
    assert llm.generate([7, 8], GREEDY, progress=False)[0].outputs == batch[1].outputs
    assert llm.generate((7, 8), GREEDY, progress=False)[0].outputs == batch[1].outputs
    assert llm.generate([], GREEDY, progress=False) == []


def test_results_are_in_the_prompts_order_each_with_its_params(llm: LLM) -> None:
    prompts = [[5 + i] * (1 + i) for i in range(12)]
    params = [replace(GREEDY, max_tokens=12 - i) for i in range(12)]
    outputs = llm.generate(prompts, params, progress=False)
    assert [o.prompt_token_ids for o in outputs] == prompts
    assert [len(o.outputs[0].token_ids) for o in outputs] == list(range(12, 0, -1))
    with pytest.raises(ValueError, match="2 sampling_params for 3 prompts"):
        llm.generate(["a", "b", "c"], params[:2], progress=False)
    with pytest.raises(ValueError, match="0 sampling_params for 1 prompts"):
        llm.generate("a", [], progress=False)


def test_without_params_it_samples_sixteen_tokens(llm: LLM) -> None:
    [output] = llm.generate("Hello", progress=False)
    assert 1 <= len(output.outputs[0].token_ids) <= 16


def test_several_choices(llm: LLM) -> None:
    params = SamplingParams(n=3, temperature=1.5, seed=4, max_tokens=12, ignore_eos=True)
    [output] = llm.generate("Hello", params, progress=False)
    assert [choice.index for choice in output.outputs] == [0, 1, 2]
    assert len({tuple(choice.token_ids) for choice in output.outputs}) == 3
    [again] = llm.generate("Hello", params, progress=False)
    assert again.outputs == output.outputs
    # Choice 0 is what a request for one choice gets.
    [one] = llm.generate("Hello", replace(params, n=1), progress=False)
    assert one.outputs == output.outputs[:1]


def test_logprobs(llm: LLM, reference: Any) -> None:
    params = SamplingParams(
        temperature=2.0, seed=1, max_tokens=5, ignore_eos=True, logprobs=2, prompt_logprobs=1
    )
    prompt = [5, 6, 7, 8]
    [output] = llm.generate(prompt, params, progress=False)
    [choice] = output.outputs
    tokens = prompt + choice.token_ids
    wanted_TV = tiny.logits(reference, torch.tensor(tokens)).log_softmax(-1)
    assert output.prompt_logprobs is not None and choice.logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == 4 and len(choice.logprobs) == 5
    for at, report in enumerate([*output.prompt_logprobs[1:], *choice.logprobs], start=1):
        assert report is not None
        row_V, token = wanted_TV[at - 1], tokens[at]
        assert next(iter(report)) == token
        best = row_V.topk(1 if at < 4 else 2).indices.tolist()
        assert set(report) == {token, *best}
        for id, one in report.items():
            assert isinstance(one, Logprob)
            assert one.logprob == pytest.approx(float(row_V[id]), abs=1e-4)
            assert one.rank == 1 + int((row_V > row_V[id]).sum())
            assert one.decoded_token == llm.tokenizer.token_text(id)
    drawn = zip(choice.logprobs, choice.token_ids, strict=True)
    total = sum(report[token].logprob for report, token in drawn)
    assert choice.cumulative_logprob == pytest.approx(total)


def test_stop_strings_and_tokens(llm: LLM) -> None:
    [whole] = llm.generate("Hello", GREEDY, progress=False)
    tokens = whole.outputs[0].token_ids
    by_token = replace(GREEDY, stop_token_ids=[tokens[3]])
    [output] = llm.generate("Hello", by_token, progress=False)
    first = tokens.index(tokens[3]) + 1
    [choice] = output.outputs
    assert choice.token_ids == tokens[:first]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", tokens[3])
    assert choice.text == llm.tokenizer.decode(tokens[: first - 1])
    text = whole.outputs[0].text
    stop = next(c for c in text if c != "\ufffd")
    [output] = llm.generate("Hello", replace(GREEDY, stop=stop), progress=False)
    assert output.outputs[0].text == text[: text.index(stop)]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)


def test_a_prefix_is_found_again(llm: LLM) -> None:
    prompt = [9] * 50
    llm.generate(prompt, GREEDY, progress=False)
    [again] = llm.generate(prompt, GREEDY, progress=False)
    assert again.num_cached_tokens == 48


def test_chat(llm: LLM, reference: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    [output] = llm.chat(messages, GREEDY, progress=False)
    wanted = "<s>user:Hi\nassistant:"
    assert llm.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False) == wanted
    assert output.prompt_token_ids.count(1) == 1
    assert output.outputs[0].token_ids == greedy(reference, output.prompt_token_ids, 8)
    many = llm.chat([messages, [*messages, *messages]], GREEDY, progress=False)
    assert many[0].outputs == output.outputs
    assert len(many[1].prompt_token_ids) > len(output.prompt_token_ids)
    assert llm.chat([], GREEDY, progress=False) == []


def shown(llm: LLM, output: RequestOutput) -> str:
    return llm.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)


def test_chat_options(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}]
    [output] = llm.chat(messages, GREEDY, progress=False, name="Ann")
    assert shown(llm, output) == "<s>user:Hi\nassistant:He\nassistant:Ann"
    [output] = llm.chat(
        messages,
        GREEDY,
        progress=False,
        add_generation_prompt=False,
        continue_final_message=True,
    )
    assert shown(llm, output) == "<s>user:Hi\nassistant:He"
    [output] = llm.chat(messages, GREEDY, progress=False, chat_template="{{ messages|length }}")
    assert shown(llm, output) == "2"
    with pytest.raises(ValueError, match="cannot both be true"):
        llm.chat(messages, GREEDY, progress=False, continue_final_message=True)
    with pytest.raises(ValueError, match="chat template, line 1"):
        llm.chat(messages, GREEDY, progress=False, chat_template="{% if %}")


def test_stream_chat(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    [whole] = llm.chat(messages, GREEDY, progress=False)
    deltas = list(llm.stream_chat(messages, GREEDY))
    assert "".join(d.text for d in deltas) == whole.outputs[0].text
    assert [t for d in deltas for t in d.tokens] == whole.outputs[0].token_ids
    assert deltas[-1].finish_reason == "length"


def test_a_stream_that_is_closed_early_is_aborted(llm: LLM) -> None:
    long = replace(GREEDY, max_tokens=480)
    before = llm.stats.generated_tokens
    stream = llm.stream_chat([{"role": "user", "content": "Hi"}], long)
    assert len(next(stream).tokens) == 1
    stream.close()
    until(lambda: idle(llm))
    assert llm.stats.generated_tokens - before < 480
    assert len(llm.generate("Hello", GREEDY, progress=False)[0].outputs[0].token_ids) == 8


def test_a_bad_prompt_in_a_batch_raises_and_leaves_nothing(llm: LLM) -> None:
    long = replace(GREEDY, max_tokens=480)
    good = [[5 + i] for i in range(6)]
    for bad, message in (
        ([1] * 600, "this model's maximum context length is 512 tokens; the prompt has 600"),
        ([], "the prompt has no tokens"),
        ([4000], "the prompt has token id 4000; ids are integers below 204"),
        ([3, -1], "the prompt has token id -1"),
    ):
        before = llm.stats.generated_tokens
        with pytest.raises(ValueError, match=message):
            llm.generate([*good[:3], bad, *good[3:]], long, progress=False)
        until(lambda: idle(llm))
        # The others did not run to their end.
        assert llm.stats.generated_tokens - before < 480
    with pytest.raises(ValueError, match="not Unicode"):
        llm.generate(["Hello", "\ud800"], GREEDY, progress=False)
    assert len(llm.generate(good, GREEDY, progress=False)) == 6


def test_a_tokenizer_with_more_ids_than_the_model(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    tokens = json.loads(file.read_text())
    tokens["added_tokens"].append({**tokens["added_tokens"][0], "id": 204, "content": "<pad>"})
    file.write_text(json.dumps(tokens))
    with LLM(str(tmp_path), **OPTIONS) as llm:
        assert llm.tokenizer.size == 205
        with pytest.raises(ValueError, match="the prompt has token id 204; ids are .* below 204"):
            llm.generate("a<pad>", GREEDY, progress=False)
        biased = replace(GREEDY, logit_bias={204: 1.0})
        with pytest.raises(ValueError, match="logit_bias has token id 204"):
            llm.generate("a", biased, progress=False)
        assert len(llm.generate("a", GREEDY, progress=False)[0].outputs[0].token_ids) == 8


def test_sampling_defaults_are_the_models(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a packaged model's entry, and over it what its files say."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0}')
    model = PackagedModel("a", "", "b", 1, "", "", {"temperature": 1.0, "max_new_tokens": 3})
    monkeypatch.setitem(CATALOG, "packaged", model)
    monkeypatch.setattr("pieria.llm.pull", lambda name: tmp_path)
    messages = [{"role": "user", "content": "Hi"}]
    with LLM("packaged", **OPTIONS) as llm:
        assert llm.sampling_defaults == {"temperature": 0, "max_tokens": 3}
        greedy = SamplingParams(temperature=0, max_tokens=3)
        wanted = llm.generate(["Hello", "Hi"], greedy, progress=False)
        assert llm.generate(["Hello", "Hi"], progress=False) == wanted
        said = "".join(delta.text for delta in llm.stream_chat(messages))
        assert said == llm.chat(messages, greedy, progress=False)[0].outputs[0].text
        assert len(llm.chat(messages, progress=False)[0].outputs[0].token_ids) == 3
    with LLM("packaged", generation_config="none", **OPTIONS) as llm:
        assert llm.sampling_defaults == {}
        drawn = llm.generate(["Hello"] * 8, progress=False)  # one in ten ends by itself before
        assert max(len(output.outputs[0].token_ids) for output in drawn) == 16
    with pytest.raises(ValueError, match="generation_config='some'; there are: auto, none"):
        LLM("packaged", generation_config="some", **OPTIONS)  # type: ignore[arg-type]


def test_stop_tokens_beyond_the_vocabulary_hurt_nobody(llm: LLM) -> None:
    odd = replace(GREEDY, stop_token_ids=[10**6], min_tokens=4)
    plain, found = llm.generate(["Hello", "Hello"], [GREEDY, odd], progress=False)
    assert found.outputs == plain.outputs


def test_a_request_that_fails_in_the_engine(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm._engine, "max_model_len", 10_000)
    with pytest.raises(RequestFailed, match="make 600; the model's limit is 512"):
        llm.generate([5], replace(GREEDY, max_tokens=599), progress=False)


def test_the_progress_bar_is_not_on_standard_output(
    llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    llm.generate(["Hello", "Hi"], GREEDY)
    assert capsys.readouterr().out == ""


def test_from_inside_a_running_event_loop(llm: LLM) -> None:
    async def inside() -> list[RequestOutput]:
        return llm.generate("Hello", GREEDY, progress=False)

    [outside] = llm.generate("Hello", GREEDY, progress=False)
    assert asyncio.run(inside())[0].outputs == outside.outputs


def test_from_several_threads(llm: LLM) -> None:
    wanted = [llm.generate([5 + i], GREEDY, progress=False)[0].outputs for i in range(8)]
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = llm.generate([5 + i], GREEDY, progress=False)[0].outputs

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [found[i] for i in range(8)] == wanted


def test_decisions(llm: LLM) -> None:
    decisions = {d.name: d for d in llm.decisions}
    assert decisions["dtype"].value == "float32"
    assert decisions["max_model_len"].value == "512" == str(llm.max_model_len)
    assert all(d.reason for d in llm.decisions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_len": 5}, "unknown options: max_len; there are: block_size, cpu_isa, device,"),
        ({"max_num_seqs": 0}, "max_num_seqs=0 must be at least 1"),
        ({"dtype": "int3"}, "dtype='int3'; there are: auto, float64"),
        ({"max_model_len": "many"}, r"Expected `int | null`, got `str` - at `$.max_model_len`"),
        ({"max_model_len": 513}, "max_model_len=513 is more than the 512 tokens"),
        ({"kv_cache_memory_bytes": 5}, "a cache of 5 B holds 0 tokens"),
        ({"device": "abacus"}, "device='abacus' is not here"),
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any], message: str) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match=re.escape(message)):
        LLM(str(folder), **{**OPTIONS, **options})
    until(lambda: threading.active_count() <= threads)


def test_a_bad_option_is_told_before_anything_is_fetched() -> None:
    with pytest.raises(ValueError, match="unknown options: seed"):
        LLM("nobody/has-such-a-model", seed=3)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such path, and it is no known name"):
        LLM("no-such-model")
    with pytest.raises(ValueError, match="neither a config.json nor a .gguf file"):
        LLM(str(tmp_path))


def test_a_model_that_breaks_while_it_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(settings: object) -> None:
        raise RuntimeError("a bad sector")

    monkeypatch.setattr("pieria.engine.ranks.prepare", breaks)
    threads = threading.active_count()
    with pytest.raises(EngineDead, match="RuntimeError: a bad sector"):
        LLM(str(folder), **OPTIONS)
    until(lambda: threading.active_count() <= threads)


def test_a_model_without_a_template(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".jinja":
            (tmp_path / file.name).symlink_to(file)
    with LLM(str(tmp_path), **OPTIONS) as llm:
        with pytest.raises(ValueError, match="the model has no chat template"):
            llm.chat([{"role": "user", "content": "Hi"}], progress=False)
        with pytest.raises(ValueError, match="the model has no chat template"):
            next(llm.stream_chat([{"role": "user", "content": "Hi"}]))
        assert llm.generate("Hello", GREEDY, progress=False)[0].outputs[0].text


def test_generation_stops_at_end_of_text(folder: Path, tmp_path: Path) -> None:
    """The token that the model says first, declared to end a text."""
    with LLM(str(folder), **OPTIONS) as llm:
        [output] = llm.generate("Hello", GREEDY, progress=False)
    first, second = output.outputs[0].token_ids[:2]
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [second]}))
    assert first != second
    with LLM(str(tmp_path), **OPTIONS) as llm:
        [output] = llm.generate("Hello", replace(GREEDY, ignore_eos=False), progress=False)
        [choice] = output.outputs
        assert choice.token_ids == [first, second]
        assert (choice.finish_reason, choice.stop_reason) == ("stop", None)
        assert choice.text == llm.tokenizer.decode([first])


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_close_leaves_no_thread_and_no_descriptor(folder: Path) -> None:
    def once() -> None:
        with LLM(str(folder), **OPTIONS) as llm:
            llm.generate(["Hello", "Hi"], GREEDY, progress=False)

    once()
    gc.collect()
    threads, files = threading.active_count(), descriptors()
    for _ in range(3):
        once()
    gc.collect()
    until(lambda: threading.active_count() <= threads)
    until(lambda: descriptors() <= files)


def test_closing_twice(folder: Path) -> None:
    with LLM(str(folder), **OPTIONS) as llm:
        llm.close()
    llm.close()


def test_the_package_gives_it_away() -> None:
    assert pieria.LLM is LLM
    assert set(pieria.__all__) == {"LLM", "SamplingParams", "__version__"}
    with pytest.raises(AttributeError, match="has no attribute 'Llm'"):
        pieria.Llm  # noqa: B018
