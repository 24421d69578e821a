"""What a process with the real model takes, against what it planned."""

import json
import os
import subprocess
import sys

SCRIPT = r"""
import json, re, sys
from octavo import LLM, SamplingParams

llm = LLM(sys.argv[1], max_model_len=1024, max_num_seqs=16)
prompts = [{"prompt_token_ids": [i + 1] * 500} for i in range(16)]
llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
plan = llm.model.plan
with open("/proc/self/status") as file:  # getrusage would count what the parent had when it forked
    peak = int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) * 1024
print(json.dumps({"peak": peak, "weights": plan.weights, "kv_cache": plan.kv_cache}))
"""


def test_a_process_takes_no_more_than_weights_and_kv_cache_and_150_megabytes(real_model):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(real_model)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["peak"] <= seen["weights"] + seen["kv_cache"] + 150 * 10**6
    assert seen["peak"] >= seen["weights"]  # the figure is of the right process
