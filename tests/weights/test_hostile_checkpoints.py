"""Whatever is in a model's files, what comes out is a model or an OctavoError with one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile import Mutants

from octavo import LLM, SamplingParams
from octavo.errors import OctavoError

LOADS = int(os.environ.get("OCTAVO_TEST_LOADS", "2000"))  # more of them are a campaign
FIRST = int(os.environ.get("OCTAVO_TEST_FIRST_LOAD", "0"))
PARTS = 8  # of the loads, so that a failure is soon seen


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Mutants:
    return Mutants(tmp_path_factory.mktemp("mutants"))


def use(path: Path) -> None:
    """Loads a model, and has it write two tokens, if only text is needed for that."""
    llm = LLM(str(path), dtype="float32", max_num_seqs=1, max_num_batched_tokens=64, num_gpu_blocks_override=64)
    params = llm.get_default_sampling_params()
    if llm.model.encoder is None:
        two = SamplingParams(max_tokens=2, min_tokens=2, temperature=0)
        llm.generate([{"prompt_token_ids": [1]}], two, use_tqdm=False)
        llm.generate(["a"], params, use_tqdm=False)
        llm.chat([{"role": "user", "content": "a"}], two, use_tqdm=False)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_hostile_checkpoint_ends_in_one_line_or_in_a_model(mutants: Mutants, part: int, capfd) -> None:  # type: ignore[no-untyped-def]
    refused: dict[int, str] = {}
    for seed in range(FIRST + part, FIRST + LOADS, PARTS):
        try:
            use(mutants.make(seed))
        except OctavoError as error:
            refused[seed] = str(error)
        except BaseException as error:
            raise AssertionError(f"the checkpoint of seed {seed} ends in {error!r:.500}") from error
    assert [seed for seed, text in refused.items() if len(text) > 1500 or not text.isprintable()] == []
    assert len(refused) > LOADS // PARTS // 4, "the changes hardly matter"
    assert capfd.readouterr().err == ""
