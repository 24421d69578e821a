"""`AsyncLLMEngine`: vLLM's older name of `AsyncLLM`."""

from octavo.engine.async_llm import AsyncLLM as AsyncLLMEngine

__all__ = ["AsyncLLMEngine"]
