"""Whether a grammar accepts a text, in the tokens of a tiny tokenizer."""

import pytest

from checkpoints import save_tokenizer
from octavo.structured.compiler import Grammars
from octavo.text.tokenizer_files import read_tokenizer

END = 1


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, inaugural_text):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path, inaugural_text)
    return read_tokenizer(path)


@pytest.fixture(scope="session")
def grammars(tokenizer):
    return Grammars(tokenizer, (END,))


@pytest.fixture(scope="session")
def accepts(grammars, tokenizer):
    """Whether a text, of which special tokens may be parts, is all that a grammar asks for."""

    def accepts(grammar, text):
        matcher = grammars.compile(grammar, "test").matcher.deep_copy()
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return accepts
