"""`AsyncLLM`, where vLLM has it."""

from octavo.async_llm import AsyncLLM

__all__ = ["AsyncLLM"]
