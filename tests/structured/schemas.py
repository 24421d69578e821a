"""Random schemas, whose texts are short enough for a model that writes nonsense to come to their ends."""

import random


def random_schema(seed):
    """A schema of nearly all keywords that are honoured."""
    return _schema(random.Random(seed), depth=0)


def _schema(rng, depth):
    kinds = [_text, _text, _integer, _number, _values, _patterned]
    if depth < 3:
        kinds += [_object, _object, _array, _tuple, _any_of, _all_of, _reference]
    return rng.choice(kinds[6:] if depth == 0 else kinds)(rng, depth + 1)


def _text(rng, depth):
    return {"type": "string", "minLength": rng.randrange(3), "maxLength": rng.randrange(3, 9)}


def _patterned(rng, depth):
    patterns = [r"^[a-f]{2,4}$", r'^[^"]{1,4}$', r"^\w+ ?\d$", r"^[^\\]{3}$", r"^(yes|no|n\/a)$"]
    return rng.choice([{"type": "string", "pattern": rng.choice(patterns), "maxLength": 8}, _formatted(rng)])


def _formatted(rng):
    return {"type": "string", "format": rng.choice(["date", "time", "uuid", "ipv4"])}


def _integer(rng, depth):
    low = rng.randrange(-50, 50)
    bounds = {"minimum": low, "maximum": low + rng.randrange(30)}
    return {"type": "integer", **rng.choice([bounds, {"exclusiveMinimum": 0, "maximum": 999, "multipleOf": 7}])}


def _number(rng, depth):
    return {"type": "number", "minimum": -1, "exclusiveMaximum": rng.choice([1, 2.5, 100])}


def _values(rng, depth):
    values = [1, "two", None, True, {"a": [1, "b"]}, 'q"\\\n', "é😀", -1.5, []]
    return rng.choice([{"enum": rng.sample(values, 3)}, {"const": rng.choice(values)}, {"type": ["boolean", "null"]}])


def _object(rng, depth):
    names = rng.sample(["a", "name", "x y", 'q"uote', "tab\t", "é", "n/m", "long_name_of_a_field"], rng.randrange(1, 5))
    required = [name for name in names if rng.random() < 0.7]
    schema = {"type": "object", "properties": {name: _schema(rng, depth) for name in names}, "required": required}
    more = rng.random()
    if more < 0.2:
        return {**schema, "maxProperties": len(names), "required": names}
    if more < 0.3:
        return {"type": "object", "patternProperties": {"^k[0-9]$": _schema(rng, depth)}, "additionalProperties": False}
    return {**schema, "additionalProperties": False}


def _array(rng, depth):
    low = rng.randrange(3)
    return {"type": "array", "items": _schema(rng, depth), "minItems": low, "maxItems": low + rng.randrange(3)}


def _tuple(rng, depth):
    parts = [_schema(rng, depth) for _ in range(rng.randrange(1, 4))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": rng.randrange(len(parts) + 1)}


def _any_of(rng, depth):
    return {"anyOf": [_schema(rng, depth) for _ in range(rng.randrange(1, 4))]}


def _all_of(rng, depth):
    return {"allOf": [{"type": "integer", "minimum": rng.randrange(5)}, {"maximum": rng.randrange(5, 50)}]}


def _reference(rng, depth):
    inner = {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}
    if depth > 1:  # the definitions are the root's
        return _text(rng, depth)
    return {
        "$defs": {"tree": inner, "leaf": _schema(rng, 3)},
        "anyOf": [{"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/leaf"}],
    }
