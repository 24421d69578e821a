"""`LLMEngine`, where vLLM has it."""

from octavo.engine.llm_engine import LLMEngine

__all__ = ["LLMEngine"]
