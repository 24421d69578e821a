"""Sampling, where vLLM has it."""
