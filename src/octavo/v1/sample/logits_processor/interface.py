"""The base class of logits processors, where vLLM has it."""

from octavo.sampling.processors import BatchUpdate, LogitsProcessor, MoveDirectionality

__all__ = ["BatchUpdate", "LogitsProcessor", "MoveDirectionality"]
