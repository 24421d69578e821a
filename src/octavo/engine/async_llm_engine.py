"""`AsyncLLMEngine`: vLLM's older name of `AsyncLLM`."""

from octavo.async_llm import AsyncLLM as AsyncLLMEngine

__all__ = ["AsyncLLMEngine"]
