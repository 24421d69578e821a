"""POST /invocations: any of the requests whose body is JSON, and what they are answered with."""

from __future__ import annotations

from pydantic import RootModel

from octavo.server.protocol.answers import AudioText, ChatCompletion, Completion, VerboseAudioText
from octavo.server.protocol.chat import ChatRequest
from octavo.server.protocol.completions import CompletionRequest
from octavo.server.protocol.embeddings import EmbeddingList, EmbeddingRequest
from octavo.server.protocol.pooling import ClassifyList, ClassifyRequest, PoolingList, PoolingRequest
from octavo.server.protocol.scoring import RerankList, RerankRequest, ScoreList, ScoreRequest

Asked = (
    ChatRequest | CompletionRequest | EmbeddingRequest | PoolingRequest | ClassifyRequest | ScoreRequest | RerankRequest
)
Vectors = EmbeddingList | PoolingList | ClassifyList | ScoreList | RerankList
InvocationAnswer = ChatCompletion | Completion | Vectors | AudioText | VerboseAudioText


class InvocationRequest(RootModel[Asked]):
    """What the endpoint of that kind takes."""
