"""`process_dict_updates`, where vLLM has it."""

from octavo.sampling.processors import process_dict_updates

__all__ = ["process_dict_updates"]
