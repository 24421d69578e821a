"""Options: each of vLLM's is used, noted in one line, or refused by name."""

import logging
import subprocess
import sys

import pytest

from asking import something_else
from octavo import LLM, config, environment
from octavo.cli.options import add_engine_flags, engine_options
from octavo.cli.parser import Parser
from octavo.cli.server_flags import SERVER_NOTED, SERVER_REFUSED
from octavo.config import EngineConfig
from octavo.devices import Placement
from octavo.errors import ConfigError, ModelNotFoundError, UnsupportedError
from octavo.options import NOTED, ON_CPU, REFUSED, asks

# The fields of vLLM 0.33's EngineArgs.
VLLM_OPTIONS = """
additional_config aggregate_engine_logging all2all_backend allow_deprecated_quantization allowed_local_media_path
allowed_media_domains async_scheduling attention_backend attention_config aux_output_config block_size code_revision
collect_detailed_traces compilation_config config_format convert cp_kv_cache_interleave_size
cpu_distributed_timeout_seconds cpu_offload_gb cpu_offload_params cudagraph_capture_sizes cudagraph_metrics
custom_histogram_buckets data_parallel_address data_parallel_backend data_parallel_external_lb data_parallel_hybrid_lb
data_parallel_multi_port_external_lb data_parallel_rank data_parallel_rpc_port data_parallel_size
data_parallel_size_local data_parallel_start_rank dbo_decode_token_threshold dbo_prefill_token_threshold
dcp_comm_backend dcp_kv_cache_interleave_size dcp_q_replicate decode_context_parallel_size default_mm_loras device_ids
diffusion_config disable_cascade_attn disable_chunked_mm_input disable_custom_all_reduce
disable_hybrid_kv_cache_manager disable_log_stats disable_nccl_for_dp_synchronization disable_sliding_window
distributed_executor_backend distributed_timeout_seconds download_dir dp_sync_interval dtype ec_manager_config
ec_transfer_config elastic_ep_max_dp_size enable_batch_sharded_sampling enable_chunked_prefill enable_cumem_allocator
enable_dbo enable_elastic_ep enable_ep_weight_filter enable_eplb enable_expert_parallel enable_fault_tolerance
enable_flashinfer_autotune enable_hc_sp enable_layerwise_nvtx_tracing enable_logging_iteration_details enable_lora
enable_mamba_cache_stochastic_rounding enable_mamba_shared_prefix_checkpoint enable_mfu_metrics
enable_mixed_moe_lora_format enable_mm_embeds enable_mm_processor_stats enable_moe_shared_loras
enable_nccl_comm_suspend enable_prefix_caching enable_prompt_embeds enable_return_routed_experts
enable_shm_tensor_arena enable_sleep_mode enable_tower_connector_lora enable_trace_replay enforce_eager engram_config
eplb_config expert_placement_strategy fail_on_environ_validation fault_tolerance_config fully_sharded_loras
gdn_prefill_backend generation_config gpu_memory_utilization hf_config_path hf_overrides hf_token ignore_patterns
interleave_mm_strings io_processor_plugin ir_op_priority jit_monitor_mode jit_monitor_verbose kda_decode_backend
kda_prefill_backend kernel_config kv_cache_dtype kv_cache_dtype_skip_layers kv_cache_memory_bytes kv_cache_metrics
kv_cache_metrics_sample kv_events_config kv_offloading_backend kv_offloading_size kv_sharing_fast_prefill
kv_transfer_config language_model_only limit_mm_per_prompt linear_backend load_format log_config_file log_level
logging_config logits_processors logprobs_mode long_prefill_token_threshold long_prefill_token_threshold_adaptive
lora_dtype lora_target_modules mamba_backend mamba_block_size mamba_cache_dtype mamba_cache_mode
mamba_cache_philox_rounds mamba_config mamba_ssm_cache_dtype mamba_ssu_algorithm master_addr master_port max_cpu_loras
max_cudagraph_capture_size max_logprobs max_lora_cls_labels max_lora_rank max_loras max_model_len max_num_active_seqs
max_num_batched_tokens max_num_queued_reqs max_num_queued_tokens max_num_scheduled_tokens max_num_seqs
max_parallel_loading_workers media_io_kwargs mm_device_do_normalize mm_encoder_attn_backend mm_encoder_attn_dtype
mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_margin mm_encoder_fp8_scale_save_path mm_encoder_only
mm_encoder_tp_mode mm_hasher_algorithm mm_ipc_gpu_memory_gb mm_processor_cache_gb mm_processor_cache_type
mm_processor_device mm_processor_kwargs mm_shm_cache_max_object_size_mb mm_tensor_ipc model model_class_overrides
model_impl model_loader_extra_config model_weights moe_backend monokernel nnodes node_rank num_gpu_blocks_override
numa_bind numa_bind_cpus numa_bind_nodes offload_backend offload_group_size offload_num_in_group offload_params
offload_prefetch_step optimization_level otlp_traces_endpoint override_generation_config
per_request_spec_decode_metrics performance_mode pipeline_parallel_size pooler_config prefill_context_parallel_size
prefill_schedule_interval prefix_cache_retention_interval prefix_caching_hash_algo prefix_match_unit profiler_config
pt_load_map_location quantization quantization_config ray_workers_use_nsight reasoning_config reasoning_parser
reasoning_parser_plugin renderer_num_workers replayssm_buffer_len return_sampling_mask revision runner
safetensors_load_strategy safetensors_prefetch_block_size safetensors_prefetch_num_threads scheduler_cls
scheduler_reserve_full_isl scheduling_policy seed served_model_name show_hidden_metrics_for_version shutdown_timeout
skip_mm_profiling skip_tokenizer_init sleep_mode_backend sleep_mode_offload_cudagraph sleep_preserve_parameter_names
sparse_indexer_topk_backend spec_method spec_model spec_tokens specialize_active_lora speculative_config
stream_interval structured_outputs_config swa_bounded_replay tensor_parallel_size tokenizer tokenizer_mode
tokenizer_revision tokens_only trust_remote_code ubatch_size use_fp64_gumbel use_replayssm use_tqdm_on_load
video_pruning_method video_pruning_rate watchdog_config watermark watermark_config weight_transfer_config worker_cls
worker_extension_cls
"""


def options(**given):
    return EngineConfig.from_options({"device": "cpu", **given})


@pytest.fixture(autouse=True)
def fresh_process():
    """Notes that are made once are made again."""
    environment.note_the_others.cache_clear()


def test_no_option_of_vllm_s_is_unknown():
    known = {*EngineConfig.__dataclass_fields__, *REFUSED, *NOTED}
    assert set(VLLM_OPTIONS.split()) <= known


def test_an_option_is_in_one_table():
    assert not set(REFUSED) & set(NOTED)
    assert not set(EngineConfig.__dataclass_fields__) & {*REFUSED, *NOTED}
    assert set(ON_CPU) <= {*EngineConfig.__dataclass_fields__, *REFUSED, *NOTED}


def test_what_asks_for_nothing_is_read_as_a_flag_s_value():
    assert REFUSED["limit_mm_per_prompt"][0] == ({"audio": 1}, "audio=1")
    assert REFUSED["data_parallel_size_local"][0] == (0, 1)
    assert NOTED["numa_bind_cpus"][0] == ([],)
    assert [NOTED[name][0][0] for name in ("numa_bind", "use_v2_block_manager")] == [False, True]
    assert NOTED["master_addr"] == (("127.0.0.1",), "there is one process and one device")


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(config, "place", lambda *_: Placement("cuda", "torch", "bfloat16"))


@pytest.mark.parametrize("name", NOTED | ON_CPU)
def test_every_note_is_printed_once_and_names_its_option(name, caplog):
    neutral, note = (NOTED | ON_CPU)[name]
    value = something_else(neutral)
    with caplog.at_level(logging.WARNING, "octavo"):
        options(**{name: value})
    assert caplog.messages == [f"{name}={value!r}: {note}"]


@pytest.mark.parametrize("name", NOTED)
def test_every_note_on_a_gpu_is_that_of_a_gpu(name, on_gpu, caplog):
    value = something_else(NOTED[name][0])
    with caplog.at_level(logging.WARNING, "octavo"):
        EngineConfig.from_options({name: value})
    assert caplog.messages == [f"{name}={value!r}: {NOTED[name][1]}"]


def test_what_a_gpu_does_anyway_is_not_noted_there(on_gpu, caplog):
    assert EngineConfig.from_options({"enforce_eager": True, "async_scheduling": True}).enforce_eager
    assert caplog.messages == []


@pytest.mark.parametrize("name", sorted(set(ON_CPU) & set(REFUSED)))
def test_weights_are_not_offloaded_from_a_gpu(name, on_gpu):
    with pytest.raises(UnsupportedError, match=rf"{name}=.*device cpu"):
        EngineConfig.from_options({name: something_else(REFUSED[name][0])})


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ON_CPU])
def test_every_refusal_names_its_option_and_says_why(name):
    value = something_else(REFUSED[name][0])
    with pytest.raises(UnsupportedError) as caught:
        options(**{name: value})
    assert str(caught.value) == f"{name}={value!r}: {REFUSED[name][1]}"


@pytest.mark.parametrize("table", [REFUSED, NOTED, SERVER_REFUSED, SERVER_NOTED], ids=["a", "b", "c", "d"])
def test_values_that_ask_for_nothing_pass_without_a_word(table, caplog):
    for neutral, _ in table.values():
        assert asks(something_else(neutral), neutral)
        for value in (*neutral, None, {}, [], ""):
            assert not asks(value, neutral)


def test_the_defaults_of_vllm_ask_for_nothing(caplog):
    defaults = {name: neutral[0] for name, (neutral, _) in (REFUSED | NOTED | ON_CPU).items()}
    with caplog.at_level(logging.WARNING, "octavo"):
        assert options(**defaults) == options()
    assert caplog.messages == []


def test_a_limit_of_none_asks_for_nothing():
    options(limit_mm_per_prompt={"image": 0, "video": 0, "audio": 1})
    for limit in ({"image": 1}, {"audio": 2}, {"audio": 1, "image": 1}):
        with pytest.raises(UnsupportedError, match="one audio for Whisper"):
            options(limit_mm_per_prompt=limit)


def test_true_is_not_the_number_one():
    assert asks(True, (1,))
    assert asks(1, (True,))
    assert not asks(1.0, (1,))


def test_a_script_s_notes_go_to_stderr(tiny):
    code = f"from octavo import LLM; LLM({str(tiny[0])!r}, trust_remote_code=True, device='cpu')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines() == [f"trust_remote_code=True: {NOTED['trust_remote_code'][1]}"]


@pytest.mark.parametrize("length", [-1, "auto"])
def test_a_length_may_be_left_to_the_engine(length):
    assert options(max_model_len=length).max_model_len is None


def test_sampling_defaults_may_be_overridden(tiny):
    llm = LLM(str(tiny[0]), override_generation_config={"temperature": 0.25, "max_new_tokens": 3})
    assert llm.get_default_sampling_params().temperature == 0.25
    assert llm.get_default_sampling_params().max_tokens == 3
    with pytest.raises(ConfigError, match="override_generation_config"):
        options(override_generation_config="hot")
    with pytest.raises(ConfigError, match=r"override_generation_config.*top_p"):
        LLM(str(tiny[0]), override_generation_config={"top_p": 2})


def test_a_flag_of_json_and_one_of_bytes_reach_the_engine():
    parser = Parser("octavo test", "", "")
    add_engine_flags(parser)
    args = parser.parse(["--override-generation-config", '{"temperature": 1}', "--kv-cache-memory-bytes", "2G"])
    assert engine_options(args) == {"override_generation_config": {"temperature": 1}, "kv_cache_memory_bytes": 2 << 30}


# The type of the KV cache


@pytest.mark.parametrize("name", ["auto", "bfloat16", "int8", "int8_per_token_head"])
def test_types_of_the_cache_that_are_there(name, caplog):
    said = options(kv_cache_dtype=name)
    assert said.cache_dtype == ("int8" if "int8" in name else "bfloat16")
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_per_token_head"])
def test_fp8_means_int8_and_is_announced_once(name, caplog):
    with caplog.at_level(logging.WARNING, "octavo"):
        assert options(kv_cache_dtype=name).cache_dtype == "int8"
    assert caplog.messages == [f"kv_cache_dtype='{name}': the native executor keeps 8-bit keys and values as int8"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"kv_cache_dtype": "fp8_ds_mla"}, "the native executor has auto, bfloat16, int8 for a bfloat16 model"),
        ({"kv_cache_dtype": "nvfp4"}, "the native executor has auto, bfloat16, int8 for a bfloat16 model"),
        (
            {"kv_cache_dtype": "bfloat16", "dtype": "float32"},
            "the native executor has auto, float32, int8 for a float32",
        ),
        ({"kv_cache_dtype": "int8", "executor": "torch"}, "the torch executor has auto, bfloat16 for a bfloat16 model"),
        ({"kv_cache_dtype": "fp8", "executor": "torch"}, "the torch executor has auto, bfloat16 for a bfloat16 model"),
    ],
)
def test_types_of_the_cache_that_are_not_there_are_refused_with_those_that_are(said, reason):
    with pytest.raises(UnsupportedError, match=f"kv_cache_dtype='{said['kv_cache_dtype']}': {reason}"):
        options(**said)


# The environment


def test_variables_without_a_meaning_are_noted_once_in_one_line(monkeypatch, caplog):
    monkeypatch.setenv("VLLM_USE_V1", "1")
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASH_ATTN")
    monkeypatch.setenv("VLLM_API_KEY", "key")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    with caplog.at_level(logging.WARNING, "octavo"):
        options()
        options()
    assert caplog.messages == ["variables that mean nothing here are set: VLLM_ATTENTION_BACKEND, VLLM_USE_V1"]


def test_nothing_is_said_without_such_variables(caplog):
    options()
    assert caplog.messages == []


@pytest.mark.parametrize("value", ["1", "True"])
def test_modelscope_is_the_hub_that_is_asked(monkeypatch, value, tiny):
    from octavo.weights.source import resolve

    monkeypatch.setenv("VLLM_USE_MODELSCOPE", value)
    for reference in ("org/name", None):
        with pytest.raises(ModelNotFoundError, match=r"modelscope:\w+/.* is not in the cache .* switched off"):
            resolve(reference, offline=True)
    assert str(resolve(str(tiny[0]))) == str(tiny[0])
    monkeypatch.setenv("VLLM_USE_MODELSCOPE", "False")
    with pytest.raises(ConfigError, match="revision"):
        resolve("org/name@a", revision="b")


def test_the_kv_cache_of_a_cpu_may_be_sized_by_a_variable(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert options().kv_cache_memory_bytes == 2 << 30
    assert options(kv_cache_memory_bytes=5).kv_cache_memory_bytes == 5
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "0")
    assert options().kv_cache_memory_bytes is None


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", "1e300"])
def test_a_variable_s_bad_value_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", value)
    with pytest.raises(ConfigError, match=f"VLLM_CPU_KVCACHE_SPACE='{value}'"):
        options()


def test_the_log_level_of_vllm_is_that_of_the_log(monkeypatch, caplog):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    options(swap_space=8)
    assert logging.getLogger("octavo").level == logging.ERROR
    assert environment.read_server_environment() == {"log_level": "error"}
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "loud")
    with pytest.raises(ConfigError, match="VLLM_LOGGING_LEVEL='loud': must be one of debug"):
        environment.read_server_environment()


def test_a_server_s_keep_alive_may_be_a_variable(monkeypatch):
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "9")
    assert environment.read_server_environment() == {"keep_alive_timeout": 9.0}
