"""Values of options that ask for something."""


def something_else(neutral):
    """A value of the option's kind that asks for something."""
    for value in neutral:
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 7
        if isinstance(value, list):
            return ["something"]
        if isinstance(value, dict):
            return {"something": 1}
    return "something"
