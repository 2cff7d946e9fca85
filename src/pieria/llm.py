"""`LLM`: a model in this process, for scripts. Names and fields are vLLM's.

The server's own asynchronous engine, in a thread, driven from an event loop in another.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import msgspec
from rich.console import Console
from rich.progress import Progress

from pieria.clock import RealTime
from pieria.config import Decision
from pieria.engine.client import EngineClient
from pieria.engine.messages import Ready, Stats
from pieria.engine.plan import Logprob as TokenReport
from pieria.engine.runner_config import FACTORY, RunnerConfig
from pieria.engine.sampling_params import SamplingParams, sampling_defaults
from pieria.engine.scheduler import SchedulerConfig
from pieria.engine.text import WHOLE_INTERVAL, Delta, TextEngine
from pieria.models import catalog
from pieria.models.chat_template import ChatTemplate
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.keys import Keys
from pieria.models.pull import pull
from pieria.models.registry import model_config
from pieria.models.rerank import INSTRUCTION, answers, questions

if TYPE_CHECKING:
    from pieria.engine.embed import Embedder

T = TypeVar("T")

RUNNERS = ("auto", "generate", "pooling")

Prompt = str | Sequence[int]
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Logprob:
    """One token's natural-log probability; rank 1 is the most likely."""

    logprob: float
    rank: int
    decoded_token: str


Logprobs = dict[int, Logprob]
"""The token of one position and the asked-for alternatives, by id."""


@dataclass
class CompletionOutput:
    """One choice.

    finish_reason: "stop" or "length"; stop_reason: the stop string or token id, None for
    end-of-text.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[Logprobs] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    """One prompt and its choices.

    prompt_logprobs: None for the first token, which nothing precedes.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[Logprobs | None] | None = None
    num_cached_tokens: int = 0


class LLM:
    """A loaded model. model: a short name, hub id, folder or GGUF file, fetched if need be.

    runner: "generate" for texts and "pooling" for embeddings and scores; "auto" is "pooling" where
    the model's files say how its hidden states are pooled, or it is an encoder.
    generation_config: "auto" takes sampling defaults from the model, "none" does not.
    options: those of `RunnerConfig` and `SchedulerConfig`, such as dtype="bfloat16" or
    max_num_seqs=8. ValueError for a bad option or a model that does not fit; OSError if it cannot
    be fetched; EngineDead if loading fails otherwise.
    """

    def __init__(
        self,
        model: str,
        *,
        runner: Literal["auto", "generate", "pooling"] = "auto",
        generation_config: Literal["auto", "none"] = "auto",
        **options: Any,
    ) -> None:
        placed, scheduler = _configs(model, options)
        if runner not in RUNNERS:
            raise ValueError(f"runner={runner!r}; there are: {', '.join(RUNNERS)}")
        if generation_config not in ("auto", "none"):
            raise ValueError(f"generation_config={generation_config!r}; there are: auto, none")
        path = pull(model)
        placed = replace(placed, model=str(path))
        checkpoint = open_checkpoint(path)
        self.tokenizer = checkpoint.tokenizer()
        self._template = checkpoint.chat_template
        says = (catalog.generation_config(model), checkpoint.generation_config)
        self.sampling_defaults = sampling_defaults(*says) if generation_config == "auto" else {}
        self._embedder: Embedder | None = None
        if runner == "pooling" or (runner == "auto" and _pools(checkpoint)):
            from pieria.engine.embed import open_embedder

            self._embedder, self.decisions = open_embedder(placed, scheduler.max_num_batched_tokens)
            self.max_model_len = self._embedder.most
            return
        settings = {
            "runner": asdict(placed),
            "scheduler": asdict(scheduler),
            "stop_ids": sorted(checkpoint.stop_ids),
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._client, ready = self._wait(_start(settings))
        except BaseException:
            self._end_loop()
            raise
        self.max_model_len = ready.max_model_len
        self.decisions = tuple(Decision(*d) for d in ready.decisions)
        self._engine = TextEngine(
            self._client, self.tokenizer, ready.max_model_len, ready.vocabulary
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Continue each prompt, a text or a list of token ids; results in the prompts' order.

        sampling_params: one for all, or one for each; default: the model's own. ValueError for a
        prompt that cannot be served, RequestFailed if the engine ends one with an error.
        """
        batch = _batch(prompts)
        each = _each(sampling_params, self.sampling_defaults, len(batch))
        texts = [p if isinstance(p, str) else None for p in batch]
        ids = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in batch]
        return self._run(texts, ids, each, progress)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        progress: bool = True,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of several, through the model's chat template."""
        one = len(messages) > 0 and isinstance(messages[0], dict)
        many = cast(list[Messages], [messages] if one else messages)
        texts = [
            self._render(
                conversation,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **template_options,
            )
            for conversation in many
        ]
        each = _each(sampling_params, self.sampling_defaults, len(texts))
        ids = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return self._run(texts, ids, each, progress)

    def stream_chat(
        self, messages: Messages, sampling_params: SamplingParams | None = None
    ) -> Iterator[Delta]:
        """The answer to one conversation as it comes.

        Closing the iterator early aborts the request.
        """
        ids = self.tokenizer.encode(self._render(messages, None), add_special_tokens=False)
        [params] = _each(sampling_params, self.sampling_defaults, 1)
        deltas = self._generating().stream(ids, params)

        async def following() -> Delta | None:
            return await anext(deltas, None)

        try:
            while (delta := self._wait(following())) is not None:
                yield delta
        finally:
            self._wait(deltas.aclose())

    def embed(
        self, texts: str | Sequence[str], *, prompt_name: str | None = None
    ) -> list[list[float]]:
        """A vector for each text, pooled and normalised as the model's files say.

        prompt_name: which of the model's prompts is put before each text; default: the one that the
        files call default, if any. ValueError for a text that is empty or too long.
        """
        embedder = self._pooling()
        prompt = "" if embedder.config is None else embedder.config.prompt(prompt_name)
        batch = [texts] if isinstance(texts, str) else texts
        return embedder.embed([self.tokenizer.encode(prompt + text) for text in batch])

    def score(
        self, query: str, documents: str | Sequence[str], *, instruction: str = INSTRUCTION
    ) -> list[float]:
        """How well each document answers the query, from 0 to 1: a reranker's word for it.

        instruction: what answering means here. ValueError for a text that is too long, or a model
        that has no words for yes and no.
        """
        embedder = self._pooling()
        batch = [documents] if isinstance(documents, str) else documents
        asked = questions(self.tokenizer, query, batch, instruction)
        return [yes for yes, _ in embedder.choose(asked, answers(self.tokenizer))]

    @property
    def stats(self) -> Stats:
        """The engine's gauges and counters after its latest step."""
        self._generating()
        return self._client.stats

    def close(self) -> None:
        """Free the model. No call but this one follows."""
        if self._embedder is not None:
            self._embedder.close()
        elif not self._loop.is_closed():
            self._wait(self._client.close())
            self._end_loop()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(
        self,
        texts: Sequence[str | None],
        ids: Sequence[list[int]],
        params: Sequence[SamplingParams],
        progress: bool,
    ) -> list[RequestOutput]:
        engine = self._generating()

        async def all_of_them() -> list[RequestOutput]:
            console = Console(stderr=True)
            silent = not (progress and console.is_terminal)
            with Progress(console=console, disable=silent, transient=True) as bar:
                task = bar.add_task("generating", total=len(ids))

                async def one(
                    text: str | None, prompt: list[int], p: SamplingParams
                ) -> RequestOutput:
                    output = await self._collect(engine, text, prompt, p)
                    bar.advance(task)
                    return output

                jobs = [
                    asyncio.ensure_future(one(*job)) for job in zip(texts, ids, params, strict=True)
                ]
                try:
                    return await asyncio.gather(*jobs)
                finally:
                    # One bad prompt ends the call; what the others hold must not outlive it.
                    for job in jobs:
                        job.cancel()
                    await asyncio.gather(*jobs, return_exceptions=True)

        return self._wait(all_of_them())

    async def _collect(
        self, engine: TextEngine, text: str | None, prompt: list[int], params: SamplingParams
    ) -> RequestOutput:
        outputs = [CompletionOutput(index) for index in range(params.n)]
        for output in outputs:
            if params.logprobs is not None:
                output.logprobs, output.cumulative_logprob = [], 0.0
        result = RequestOutput(text, prompt, outputs)
        async for delta in engine.stream(prompt, params, stream_interval=WHOLE_INTERVAL):
            output = outputs[delta.choice]
            output.text += delta.text
            output.token_ids += delta.tokens
            for report in delta.logprobs:
                assert output.logprobs is not None and output.cumulative_logprob is not None
                output.logprobs.append(self._logprobs(report))
                output.cumulative_logprob += report.logprob
            if delta.prompt_logprobs is not None:
                result.prompt_logprobs = [
                    None if report is None else self._logprobs(report)
                    for report in delta.prompt_logprobs
                ]
            result.num_cached_tokens = max(result.num_cached_tokens, delta.cached_tokens)
            if delta.finish_reason is not None:
                output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
        return result

    def _logprobs(self, report: TokenReport) -> Logprobs:
        ranked = {report.token: (report.logprob, report.rank)}
        for rank, (token, logprob) in enumerate(report.top, start=1):
            ranked.setdefault(token, (logprob, rank))
        return {
            token: Logprob(logprob, rank, self._text(token))
            for token, (logprob, rank) in ranked.items()
        }

    def _text(self, token: int) -> str:
        return self.tokenizer.token_text(token) if token < self.tokenizer.size else ""

    def _render(self, messages: Messages, chat_template: str | None, **options: Any) -> str:
        source = chat_template or self._template
        if source is None:
            raise ValueError("the model has no chat template; give one as chat_template")
        return ChatTemplate(source, *self._special_texts()).render(messages, **options)

    def _special_texts(self) -> tuple[str, str]:
        ends = (self.tokenizer.bos, self.tokenizer.eos)
        bos, eos = ("" if id is None else self._text(id) for id in ends)
        return bos, eos

    def _generating(self) -> TextEngine:
        if self._embedder is not None:
            raise ValueError("the model is open for pooling; open it with runner='generate'")
        return self._engine

    def _pooling(self) -> "Embedder":
        if self._embedder is None:
            raise ValueError("the model is open to generate; open it with runner='pooling'")
        return self._embedder

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _pools(checkpoint: Checkpoint) -> bool:
    """Whether the model is made for vectors: files speak of pooling, or it has no next token."""
    from pieria.models.embedding_config import embedding_config

    keys = Keys(checkpoint.config, str(checkpoint.path))
    return embedding_config(checkpoint) is not None or not model_config(keys).generates


async def _start(settings: dict[str, Any]) -> tuple[EngineClient, Ready]:
    """An engine that is ready; nothing is left of one that does not become it."""
    client = await EngineClient.start_thread(FACTORY, settings, RealTime())
    try:
        return client, await client.wait_ready()
    except BaseException:
        await client.close()
        raise


def _batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as several."""
    one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    return cast(list[Prompt], [prompts] if one else list(prompts))


def _each(
    params: SamplingParams | Sequence[SamplingParams] | None, defaults: dict[str, Any], count: int
) -> list[SamplingParams]:
    given = SamplingParams(**defaults) if params is None else params
    each = [given] * count if isinstance(given, SamplingParams) else list(given)
    if len(each) != count:
        raise ValueError(f"{len(each)} sampling_params for {count} prompts")
    return each


def _configs(model: str, options: dict[str, Any]) -> tuple[RunnerConfig, SchedulerConfig]:
    given = {"model": model, **options}
    runner, scheduler = ({f.name for f in fields(c)} for c in (RunnerConfig, SchedulerConfig))
    unknown = sorted(given.keys() - runner - scheduler)
    if unknown:
        known = sorted((runner | scheduler) - {"model"})
        raise ValueError(f"unknown options: {', '.join(unknown)}; there are: {', '.join(known)}")
    return (
        msgspec.convert({k: v for k, v in given.items() if k in runner}, RunnerConfig),
        msgspec.convert({k: v for k, v in given.items() if k in scheduler}, SchedulerConfig),
    )
