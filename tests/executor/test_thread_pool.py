"""The threads under ThreadSanitizer."""

from pathlib import Path

import native_programs


def output_of(name, tmp_path):
    """What the program in `name`.cpp prints, if it has no race."""
    return native_programs.output_of(
        Path(__file__).with_name(f"{name}.cpp"), ["core/thread_pool.cpp"], "thread", tmp_path
    )


def test_a_pool_may_be_resized_while_it_runs_jobs(tmp_path):
    assert output_of("thread_pool", tmp_path) == "3 1\n"


def test_a_phase_may_have_as_many_tiles_as_the_one_before_has_found(tmp_path):
    assert output_of("phases", tmp_path) == "right\n"
