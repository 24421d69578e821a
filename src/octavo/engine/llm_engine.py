"""`LLMEngine`: an engine that its user steps, as scripts written for vLLM do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from octavo.engine.arg_utils import EngineArgs
from octavo.engine.engine import Engine
from octavo.engine.loading import LoadedModel, load
from octavo.lora.request import refuse_lora
from octavo.readers import READERS
from octavo.request import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.text.hf_tokenizer import HFTokenizer


class LLMEngine:
    """Requests are added, and `step` computes one step of all of them. It is used from one thread at a time."""

    def __init__(self, model: LoadedModel):
        self.model = model
        self.engine = Engine(model)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        """Raises what `LLM` raises."""
        return cls(load(engine_args.create_engine_config(), READERS))

    def add_request(
        self,
        request_id: str,
        prompt: Any,
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: None = None,
        *,
        priority: int = 0,
    ) -> str:
        """Queues a prompt, in a form that `LLM.generate` takes. Returns its id. `arrival_time` is not used.

        Raises RequestError if it can't be carried out.
        """
        refuse_lora(lora_request)
        self.engine.submit(request_id, self.model.reader.read(prompt), params, priority)
        return request_id

    def step(self) -> list[RequestOutput]:
        """Computes one step. Outputs hold as much as `SamplingParams.output_kind` says."""
        return self.engine.step()

    def has_unfinished_requests(self) -> bool:
        return self.engine.has_work

    def get_num_unfinished_requests(self) -> int:
        return len(self.engine.jobs)

    def abort_request(self, request_ids: Iterable[str]) -> None:
        """Ends requests, without an output. Unknown ids are no error."""
        for request_id in request_ids:
            self.engine.abort(request_id)

    def get_tokenizer(self) -> HFTokenizer:
        return self.model.hf_tokenizer()
