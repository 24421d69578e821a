"""What comes back, where vLLM has it."""

from octavo.request import CompletionOutput, RequestOutput

__all__ = ["CompletionOutput", "RequestOutput"]
