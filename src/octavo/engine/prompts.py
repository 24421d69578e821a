"""Kinds of texts, and the prompts that models have for them."""

from __future__ import annotations

from octavo.engine.loading import LoadedModel
from octavo.engine.pooling import pooler_of

# Names that a kind's prompt has in folders of sentence-transformers; the first two kinds are as Cohere spells them.
PROMPTS = {
    "search_query": ("query", "search_query"),
    "search_document": ("document", "search_document", "passage"),
    "query": ("query", "search_query"),
    "document": ("document", "search_document", "passage"),
    "passage": ("passage", "document", "search_document"),
    "classification": ("classification", "Classification"),
    "clustering": ("clustering", "Clustering"),
}


def prompt_for(model: LoadedModel, kind: str) -> str | None:
    """The name of the model's prompt for texts of a kind of PROMPTS; None if it has none for them.

    Raises RequestError where the model generates texts.
    """
    has = pooler_of(model).prompts
    return next((name for name in PROMPTS[kind] if name in has), None)
