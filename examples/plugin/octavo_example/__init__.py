"""A plugin for Octavo, with one of each kind of thing that a plugin may add."""


def register() -> None:
    """Called once, before a model is looked for."""
    from octavo import ModelRegistry

    ModelRegistry.register_model("CalmLlamaForCausalLM", "octavo_example.model:CalmLlama")

    # A rule and a weight format are known once their classes are made.
    from octavo_example import rule, weights  # noqa: F401
