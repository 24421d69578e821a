"""`AsyncLLM`, where vLLM has it."""

from octavo.engine.async_llm import AsyncLLM

__all__ = ["AsyncLLM"]
