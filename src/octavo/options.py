"""Options of vLLM's engine that Octavo has no use for: those that are refused, and those that are noted.

The tables are name -> (values that ask for nothing, the reason or the note). None and empty containers never ask for
anything. A value that is True or False makes a switch of the flag, an empty list one that takes several words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Options = dict[str, tuple[tuple[Any, ...], str]]


def _each(reason: str, unset: str = "", /, *, switches: str = "", lists: str = "", **neutral: Any) -> Options:
    """One reason for several options.

    Each has the value that asks for nothing, or a tuple of such values; where that is None, False or [], the option is
    among the names in `unset`, `switches` or `lists`.
    """
    given = neutral | dict.fromkeys(unset.split()) | dict.fromkeys(switches.split(), False)
    given |= {name: [] for name in lists.split()}
    return {name: (values if isinstance(values, tuple) else (values,), reason) for name, values in given.items()}


def asks(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether an option's value wants something. Entries of 0, False or nothing in a mapping want nothing either."""
    if isinstance(value, Mapping):
        value = {name: entry for name, entry in value.items() if entry}
    empty = isinstance(value, Collection) and len(value) == 0
    return not (value is None or empty or any(value == one and (value is True) == (one is True) for one in neutral))


def wanted(given: Mapping[str, Any], table: Options) -> list[tuple[str, Any, str]]:
    """The options of `table` among those given that ask for something: name, value, and the reason or the note."""
    known = [(name, value, *table[name]) for name, value in given.items() if name in table]
    return [(name, value, text) for name, value, neutral, text in known if asks(value, neutral)]


LORA = "LoRA adapters are not supported yet"
# Options that move weights off a GPU.
_OFFLOADING = _each(
    "weights stay on the GPU; a smaller model needs less of its memory, device cpu none",
    lists="cpu_offload_params offload_params",
    cpu_offload_gb=0,
    offload_group_size=0,
)
# Options that ask for what is not there.
REFUSED: Options = {
    **_each(
        "one device is supported",
        switches="data_parallel_hybrid_lb data_parallel_external_lb data_parallel_multi_port_external_lb "
        "enable_elastic_ep",
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        data_parallel_size_local=(0, 1),
        data_parallel_rank=0,
        data_parallel_start_rank=0,
        prefill_context_parallel_size=1,
        decode_context_parallel_size=1,
        nnodes=1,
        node_rank=0,
        device_ids=([], [0]),
    ),
    **_each("not supported yet; GGUF files are unpacked to the model's dtype while loading", quantization="gguf"),
    **_each(LORA, "default_mm_loras qlora_adapter_name_or_path", switches="enable_lora", lists="lora_modules"),
    **_each(
        "speculative decoding is not supported yet",
        "speculative_config speculative_model spec_method spec_model ngram_prompt_lookup_max",
        num_speculative_tokens=0,
        spec_tokens=0,
    ),
    **_each("prompt adapters are not supported", switches="enable_prompt_adapter"),
    **_each("reasoning is not taken apart yet", "reasoning_parser reasoning_parser_plugin reasoning_config"),
    **_each(
        "only generation of text, and of text from speech, is supported yet",
        "pooler_config override_pooler_config diffusion_config",
        runner=("auto", "generate"),
        convert=("auto", "none"),
    ),
    **_each(
        "prompts are texts, or one audio for Whisper",
        switches="enable_mm_embeds mm_encoder_only interleave_mm_strings",
        limit_mm_per_prompt=({"audio": 1}, "audio=1"),
        video_pruning_rate=0.0,
    ),
    **_each("prompts are text or token ids", switches="enable_prompt_embeds"),
    **_each("a tokenizer is always loaded", switches="skip_tokenizer_init"),
    **_each("write it as tokenizer='ORG/NAME@REVISION'", "tokenizer_revision"),
    **_each(
        "safetensors and GGUF are supported",
        load_format=("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "gguf", "mmap"),
    ),
    **_each("a config.json, or a GGUF file's metadata, is read", config_format=("auto", "hf")),
    **_each("say where the model's files are with model", "model_weights hf_config_path"),
    **_each("change config.json instead", "hf_overrides rope_scaling rope_theta", switches="disable_sliding_window"),
    **_each("architectures are declared in octavo.models", "model_class_overrides"),
    **_each("quantized models are not supported yet", "quantization_config", switches="allow_deprecated_quantization"),
    **_each(
        "the KV cache has the type of the model; leave it out",
        switches="calculate_kv_scales",
        lists="kv_cache_dtype_skip_layers",
        kv_cache_dtype="auto",
    ),
    **_each(
        "the KV cache stays in this process",
        "kv_transfer_config kv_events_config ec_transfer_config ec_manager_config",
        kv_offloading_size=0,
    ),
    **_each(
        "code of others is never run",
        "io_processor_plugin scheduler_cls worker_extension_cls logits_processor_pattern",
        lists="logits_processors",
    ),
    **_each("log-probabilities are those of the model, before any penalty", logprobs_mode="raw_logprobs"),
    **_each(
        "such values are not returned",
        "aux_output_config",
        switches="enable_return_routed_experts return_sampling_mask enable_trace_replay",
    ),
    **_each("texts are not watermarked", "watermark_config"),
    **_each("weights are loaded once", "weight_transfer_config", switches="enable_sleep_mode"),
    **_each("variables that mean nothing here are noted, never an error", switches="fail_on_environ_validation"),
    **_each("no traces are sent; /metrics tells", "otlp_traces_endpoint"),
    **_each("prompts are tokenized here", switches="tokens_only"),
    **_OFFLOADING,
}

# Options that mean nothing here.
NOTED: Options = {
    **_each("no code of a model is ever run; its architecture must be known here", switches="trust_remote_code"),
    **_each("nothing is swapped: a preempted request is computed again", swap_space=(0, 4)),
    **_each("no statistics are logged here", switches="disable_log_stats"),
    **_each("requests are not logged here", switches="disable_log_requests enable_log_requests"),
    **_each("there is no such processor", switches="disable_async_output_proc"),
    **_each("there is one kind of tokenizer", tokenizer_mode=("auto", "hf")),
    **_each("there is one block manager", use_v2_block_manager=True),
    **_each("steps are scheduled one by one", num_scheduler_steps=1, num_lookahead_slots=0),
    **_each("a GPU's steps are always scheduled one ahead", async_scheduling=True),
    **_each("every token is told as it comes", stream_interval=1, multi_step_stream_outputs=True),
    **_each("no graph depends on a length", max_seq_len_to_capture=8192),
    **_each("use max_num_batched_tokens", "chunked_prefill_size max_num_scheduled_tokens"),
    **_each("set HF_TOKEN instead", "hf_token"),
    **_each("a server has names for its models: octavo serve --served-model-name", "served_model_name"),
    **_each("set the level of Python's logger octavo", "log_level logging_config log_config_file"),
    **_each("there is one engine", switches="aggregate_engine_logging"),
    **_each("octavo serve has it; here close() ends at once", shutdown_timeout=0),
    **_each("octavo serve limits what waits", "max_num_queued_reqs max_num_queued_tokens"),
    **_each("loading shows no bar", use_tqdm_on_load=True),
    **_each("no file or site of a prompt is ever read", "allowed_local_media_path", lists="allowed_media_domains"),
    **_each("structured output is not supported yet", "structured_outputs_config", guided_decoding_backend="auto"),
    **_each("there is one implementation", model_impl="auto"),
    **_each("no code of a model is ever run", "code_revision"),
    **_each("use max_num_seqs", "max_num_active_seqs"),
    **_each("there are no levels", optimization_level=(0, 1, 2, 3)),
    **_each("there is one mode", performance_mode="balanced"),
    **_each("no platform is plugged in", "additional_config"),
    **_each(
        "nothing about compilation can be set",
        "max_cudagraph_capture_size",
        switches="enable_flashinfer_autotune jit_monitor_verbose",
        lists="cudagraph_capture_sizes",
        compilation_config=0,
        jit_monitor_mode="warn",
    ),
    **_each(
        "kernels are chosen for the processor, or for the GPU",
        "attention_backend attention_config kernel_config ir_op_priority gdn_prefill_backend "
        "kda_prefill_backend kda_decode_backend override_neuron_config",
        switches="monokernel disable_cascade_attn use_fp64_gumbel",
        linear_backend="auto",
        sparse_indexer_topk_backend="auto",
    ),
    **_each(
        "there is one process and one device",
        "distributed_timeout_seconds cpu_distributed_timeout_seconds data_parallel_address "
        "data_parallel_rpc_port dcp_comm_backend max_parallel_loading_workers fault_tolerance_config "
        "watchdog_config tokenizer_pool_extra_config",
        switches="disable_custom_all_reduce dcp_q_replicate disable_nccl_for_dp_synchronization ray_workers_use_nsight "
        "enable_shm_tensor_arena enable_hc_sp enable_batch_sharded_sampling enable_dbo "
        "enable_nccl_comm_suspend enable_fault_tolerance",
        worker_cls="auto",
        distributed_executor_backend=("mp", "uni"),
        master_addr="127.0.0.1",
        master_port=29501,
        data_parallel_backend="mp",
        dcp_kv_cache_interleave_size=1,
        cp_kv_cache_interleave_size=1,
        dp_sync_interval=16,
        renderer_num_workers=1,
        ubatch_size=0,
        dbo_decode_token_threshold=32,
        dbo_prefill_token_threshold=512,
        tokenizer_pool_size=0,
        tokenizer_pool_type="ray",
    ),
    **_each(
        "say which processors with taskset, and how many with OCTAVO_NUM_THREADS",
        switches="numa_bind",
        lists="numa_bind_nodes numa_bind_cpus",
    ),
    **_each(
        "mixtures of experts are not supported yet",
        "elastic_ep_max_dp_size eplb_config",
        switches="enable_expert_parallel enable_ep_weight_filter enable_eplb",
        moe_backend="auto",
        all2all_backend="allgather_reducescatter",
        expert_placement_strategy="linear",
    ),
    **_each(
        "blocks are kept, shared and freed in one way",
        "prefix_match_unit preemption_mode",
        switches="disable_hybrid_kv_cache_manager kv_sharing_fast_prefill enable_cumem_allocator "
        "sleep_mode_offload_cudagraph",
        lists="sleep_preserve_parameter_names",
        prefix_caching_hash_algo="sha256",
        prefix_cache_retention_interval=0,
        kv_offloading_backend="native",
        swa_bounded_replay=True,
        watermark=0.0,
        sleep_mode_backend="cumem",
    ),
    **_each(
        "prompts are computed in the order in which they came, in chunks of what a step has left",
        switches="long_prefill_token_threshold_adaptive disable_chunked_mm_input",
        long_prefill_token_threshold=0,
        scheduler_reserve_full_isl=True,
        prefill_schedule_interval=1,
        scheduler_delay_factor=0.0,
        max_num_partial_prefills=1,
        max_long_partial_prefills=1,
    ),
    **_each(
        "files are mapped into memory",
        "safetensors_load_strategy safetensors_prefetch_num_threads safetensors_prefetch_block_size "
        "model_loader_extra_config",
        lists="ignore_patterns",
        pt_load_map_location="cpu",
    ),
    **_each("nothing is offloaded", offload_backend="auto", offload_num_in_group=1, offload_prefetch_step=1),
    **_each(
        "there are no images and videos",
        "media_io_kwargs mm_processor_kwargs mm_encoder_attn_backend mm_encoder_attn_dtype "
        "mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path",
        switches="language_model_only disable_mm_preprocessor_cache skip_mm_profiling enable_mm_processor_stats",
        mm_processor_cache_gb=4,
        mm_processor_cache_type="lru",
        mm_hasher_algorithm="blake3",
        mm_shm_cache_max_object_size_mb=128,
        mm_encoder_tp_mode="weights",
        mm_encoder_fp8_scale_save_margin=1.5,
        video_pruning_method="evs",
        mm_tensor_ipc="direct_rpc",
        mm_processor_device="auto",
        mm_ipc_gpu_memory_gb=0,
        mm_device_do_normalize=True,
    ),
    **_each(
        "there are no adapters",
        "max_cpu_loras long_lora_scaling_factors max_lora_cls_labels",
        switches="fully_sharded_loras enable_lora_bias enable_tower_connector_lora specialize_active_lora "
        "enable_mixed_moe_lora_format enable_moe_shared_loras",
        lists="lora_target_modules",
        max_loras=1,
        max_lora_rank=16,
        lora_dtype="auto",
        lora_extra_vocab_size=256,
        max_prompt_adapters=1,
        max_prompt_adapter_token=0,
    ),
    **_each(
        "/metrics tells what is measured",
        "show_hidden_metrics_for_version custom_histogram_buckets profiler_config",
        switches="kv_cache_metrics cudagraph_metrics enable_layerwise_nvtx_tracing enable_mfu_metrics "
        "enable_logging_iteration_details",
        lists="collect_detailed_traces",
        per_request_spec_decode_metrics="none",
        kv_cache_metrics_sample=0.01,
    ),
    **_each(
        "there are no state-space models",
        "engram_config mamba_config mamba_block_size mamba_cache_mode mamba_ssu_algorithm",
        switches="enable_mamba_shared_prefix_checkpoint enable_mamba_cache_stochastic_rounding use_replayssm",
        mamba_cache_dtype="auto",
        mamba_ssm_cache_dtype="auto",
        mamba_backend="triton",
        mamba_cache_philox_rounds=0,
        replayssm_buffer_len=16,
    ),
}

# What is noted on a CPU, instead of what the tables above and `EngineConfig` make of it on a GPU.
ON_CPU: Options = {
    **_each("a CPU has no CUDA graphs", switches="enforce_eager"),
    **_each("a CPU's steps are scheduled one by one", switches="async_scheduling"),
    **{name: (neutral, "the weights are in the CPU's memory already") for name, (neutral, _) in _OFFLOADING.items()},
}
