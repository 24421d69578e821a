"""`LLM`, where vLLM has it."""

from octavo.llm import LLM

__all__ = ["LLM"]
