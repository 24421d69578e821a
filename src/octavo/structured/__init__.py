"""Structured output: from a schema, regex or grammar to the tokens that may come next.

Importing this takes no time: llguidance, which does the work, is imported where a grammar is compiled.
"""
