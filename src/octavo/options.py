"""Options of vLLM's engine that Octavo has no use for: those that are refused, and those that are noted.

The tables are name -> (values that ask for nothing, the reason or the note). None and empty containers never ask for
anything. A value that is True or False makes a switch of the flag, an empty list one that takes several words.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

Options = dict[str, tuple[tuple[Any, ...], str]]

LORA = "LoRA adapters are not supported yet"
_OFFLOADING = "cpu_offload_gb=0 offload_group_size=0 cpu_offload_params=[] offload_params=[]"

# Below are reasons or notes -> options, with the values that ask for nothing as they are typed: name=value|another.

# What asks for what is not there.
_REFUSED = {
    "one device is supported": (
        "tensor_parallel_size=1 pipeline_parallel_size=1 data_parallel_size=1 data_parallel_size_local=0|1 "
        "data_parallel_rank=0 data_parallel_start_rank=0 data_parallel_hybrid_lb=false data_parallel_external_lb=false "
        "data_parallel_multi_port_external_lb=false prefill_context_parallel_size=1 decode_context_parallel_size=1 "
        "nnodes=1 node_rank=0 enable_elastic_ep=false device_ids=[]|[0]"
    ),
    LORA: "enable_lora=false lora_modules=[] default_mm_loras qlora_adapter_name_or_path",
    "speculative decoding is not supported yet": (
        "speculative_config speculative_model num_speculative_tokens=0 spec_method spec_model spec_tokens=0 "
        "ngram_prompt_lookup_max"
    ),
    "prompt adapters are not supported": "enable_prompt_adapter=false",
    "the marks of thinking are those of reasoning_parser": "reasoning_config",
    "texts are generated, also from speech, embedded or classified; nothing else is supported yet": (
        "runner=auto|generate convert=auto|none pooler_config override_pooler_config diffusion_config"
    ),
    "prompts are texts, or one audio for Whisper": (
        'limit_mm_per_prompt={"audio":1}|audio=1 enable_mm_embeds=false mm_encoder_only=false '
        "interleave_mm_strings=false video_pruning_rate=0.0"
    ),
    "prompts are text or token ids": "enable_prompt_embeds=false",
    "a tokenizer is always loaded": "skip_tokenizer_init=false",
    "write it as tokenizer='ORG/NAME@REVISION'": "tokenizer_revision",
    "safetensors and GGUF are supported": (
        "load_format=auto|hf|safetensors|fastsafetensors|instanttensor|gguf|mmap|bitsandbytes"
    ),
    "a config.json, or a GGUF file's metadata, is read": "config_format=auto|hf",
    "say where the model's files are with model": "model_weights hf_config_path",
    "say it with hf_overrides": "rope_scaling rope_theta disable_sliding_window=false",
    "architectures are declared in octavo.models": "model_class_overrides",
    "config.json says how a model is quantized": "quantization_config allow_deprecated_quantization=false",
    "the KV cache has one type in all layers; say it with kv_cache_dtype": "kv_cache_dtype_skip_layers=[]",
    "int8 keys and values have scales of their own; say kv_cache_dtype='int8'": "calculate_kv_scales=false",
    "the KV cache stays in this process": (
        "kv_transfer_config kv_events_config ec_transfer_config ec_manager_config kv_offloading_size=0"
    ),
    "code of others is never run": (
        "reasoning_parser_plugin io_processor_plugin scheduler_cls worker_extension_cls logits_processor_pattern"
    ),
    "log-probabilities are those of the model, before any penalty": "logprobs_mode=raw_logprobs",
    "such values are not returned": (
        "enable_return_routed_experts=false return_sampling_mask=false enable_trace_replay=false aux_output_config"
    ),
    "texts are not watermarked": "watermark_config",
    "weights are loaded once": "weight_transfer_config",
    "variables that mean nothing here are noted, never an error": "fail_on_environ_validation=false",
    "octavo serve sends traces, and nothing else does": "otlp_traces_endpoint",
    "prompts are tokenized here": "tokens_only=false",
    "weights stay on the GPU; a smaller model needs less of its memory, device cpu none": _OFFLOADING,
}
# What means nothing here.
_NOTED = {
    "no code of a checkpoint is ever run; a declaration or a plugin must know it": "trust_remote_code=false",
    "nothing is swapped: a preempted request is computed again": "swap_space=0|4",
    "no statistics are logged here": "disable_log_stats=false",
    "requests are not logged here": "disable_log_requests=false enable_log_requests=false",
    "there is no such processor": "disable_async_output_proc=false",
    "there is one kind of tokenizer": "tokenizer_mode=auto|hf",
    "there is one block manager": "use_v2_block_manager=true",
    "steps are scheduled one by one": "num_scheduler_steps=1 num_lookahead_slots=0",
    "a GPU's steps are always scheduled one ahead": "async_scheduling=true",
    "every token is told as it comes": "stream_interval=1 multi_step_stream_outputs=true",
    "no graph depends on a length": "max_seq_len_to_capture=8192",
    "use max_num_batched_tokens": "chunked_prefill_size max_num_scheduled_tokens",
    "set HF_TOKEN instead": "hf_token",
    "a server has names for its models: octavo serve --served-model-name": "served_model_name",
    "set the level of Python's logger octavo": "log_level logging_config log_config_file",
    "there is one engine": "aggregate_engine_logging=false",
    "octavo serve has it; here close() ends at once": "shutdown_timeout=0",
    "octavo serve limits what waits": "max_num_queued_reqs max_num_queued_tokens",
    "loading shows no bar": "use_tqdm_on_load=true",
    "no file or site of a prompt is ever read": "allowed_local_media_path allowed_media_domains=[]",
    "structured output is llguidance's work, whichever back end is named": (
        "structured_outputs_config guided_decoding_backend=auto|guidance|llguidance"
    ),
    "no code of a model is ever run": "code_revision",
    "use max_num_seqs": "max_num_active_seqs",
    "there are no levels": "optimization_level=0|1|2|3",
    "there is one mode": "performance_mode=balanced",
    "no platform is plugged in": "additional_config",
    "nothing about compilation can be set": (
        "compilation_config=0 cudagraph_capture_sizes=[] max_cudagraph_capture_size enable_flashinfer_autotune=false "
        "jit_monitor_mode=warn jit_monitor_verbose=false"
    ),
    "kernels are chosen for the processor, or for the GPU": (
        "attention_backend attention_config kernel_config linear_backend=auto sparse_indexer_topk_backend=auto "
        "ir_op_priority monokernel=false disable_cascade_attn=false use_fp64_gumbel=false gdn_prefill_backend "
        "kda_prefill_backend kda_decode_backend override_neuron_config"
    ),
    "there is one process and one device": (
        "worker_cls=auto distributed_executor_backend=mp|uni disable_custom_all_reduce=false master_addr=127.0.0.1 "
        "master_port=29501 distributed_timeout_seconds cpu_distributed_timeout_seconds data_parallel_address "
        "data_parallel_rpc_port data_parallel_backend=mp dcp_comm_backend dcp_q_replicate=false "
        "dcp_kv_cache_interleave_size=1 cp_kv_cache_interleave_size=1 disable_nccl_for_dp_synchronization=false "
        "dp_sync_interval=16 max_parallel_loading_workers ray_workers_use_nsight=false enable_shm_tensor_arena=false "
        "renderer_num_workers=1 enable_hc_sp=false enable_batch_sharded_sampling=false enable_dbo=false ubatch_size=0 "
        "dbo_decode_token_threshold=32 dbo_prefill_token_threshold=512 enable_nccl_comm_suspend=false "
        "fault_tolerance_config enable_fault_tolerance=false watchdog_config tokenizer_pool_size=0 "
        "tokenizer_pool_type=ray tokenizer_pool_extra_config"
    ),
    "say which processors with taskset, and how many with OCTAVO_NUM_THREADS": (
        "numa_bind=false numa_bind_nodes=[] numa_bind_cpus=[]"
    ),
    "all experts of a mixture are on the one device": (
        "enable_expert_parallel=false enable_ep_weight_filter=false moe_backend=auto "
        "all2all_backend=allgather_reducescatter elastic_ep_max_dp_size eplb_config enable_eplb=false "
        "expert_placement_strategy=linear"
    ),
    "blocks are kept, shared and freed in one way": (
        "prefix_caching_hash_algo=sha256 prefix_cache_retention_interval=0 prefix_match_unit "
        "disable_hybrid_kv_cache_manager=false kv_offloading_backend=native kv_sharing_fast_prefill=false "
        "swa_bounded_replay=true watermark=0.0 preemption_mode enable_cumem_allocator=false sleep_mode_backend=cumem "
        "sleep_mode_offload_cudagraph=false sleep_preserve_parameter_names=[]"
    ),
    "prompts are computed in the order in which they came, in chunks of what a step has left": (
        "long_prefill_token_threshold=0 long_prefill_token_threshold_adaptive=false scheduler_reserve_full_isl=true "
        "prefill_schedule_interval=1 scheduler_delay_factor=0.0 max_num_partial_prefills=1 max_long_partial_prefills=1 "
        "disable_chunked_mm_input=false"
    ),
    "files are mapped into memory": (
        "safetensors_load_strategy safetensors_prefetch_num_threads safetensors_prefetch_block_size "
        "model_loader_extra_config ignore_patterns=[] pt_load_map_location=cpu"
    ),
    "a server's models can always be put to sleep": "enable_sleep_mode=false",
    "nothing is offloaded": "offload_backend=auto offload_num_in_group=1 offload_prefetch_step=1",
    "there are no images and videos": (
        "language_model_only=false media_io_kwargs mm_processor_kwargs disable_mm_preprocessor_cache=false "
        "mm_processor_cache_gb=4 mm_processor_cache_type=lru mm_hasher_algorithm=blake3 "
        "mm_shm_cache_max_object_size_mb=128 mm_encoder_tp_mode=weights mm_encoder_attn_backend mm_encoder_attn_dtype "
        "mm_encoder_fp8_scale_path mm_encoder_fp8_scale_save_path mm_encoder_fp8_scale_save_margin=1.5 "
        "skip_mm_profiling=false video_pruning_method=evs mm_tensor_ipc=direct_rpc mm_processor_device=auto "
        "mm_ipc_gpu_memory_gb=0 mm_device_do_normalize=true enable_mm_processor_stats=false"
    ),
    "there are no adapters": (
        "max_loras=1 max_lora_rank=16 max_cpu_loras fully_sharded_loras=false lora_dtype=auto lora_target_modules=[] "
        "lora_extra_vocab_size=256 long_lora_scaling_factors enable_lora_bias=false enable_tower_connector_lora=false "
        "specialize_active_lora=false enable_mixed_moe_lora_format=false enable_moe_shared_loras=false "
        "max_lora_cls_labels max_prompt_adapters=1 max_prompt_adapter_token=0"
    ),
    "/metrics tells what is measured": (
        "show_hidden_metrics_for_version collect_detailed_traces=[] per_request_spec_decode_metrics=none "
        "kv_cache_metrics=false kv_cache_metrics_sample=0.01 custom_histogram_buckets cudagraph_metrics=false "
        "enable_layerwise_nvtx_tracing=false enable_mfu_metrics=false enable_logging_iteration_details=false "
        "profiler_config"
    ),
    "there are no state-space models": (
        "engram_config mamba_config mamba_cache_dtype=auto mamba_ssm_cache_dtype=auto mamba_block_size "
        "mamba_cache_mode mamba_backend=triton mamba_ssu_algorithm enable_mamba_shared_prefix_checkpoint=false "
        "enable_mamba_cache_stochastic_rounding=false mamba_cache_philox_rounds=0 replayssm_buffer_len=16 "
        "use_replayssm=false"
    ),
}

# What is noted on a CPU, instead of what the tables above and `EngineConfig` make of it on a GPU.
_ON_CPU = {
    "a CPU has no CUDA graphs": "enforce_eager=false",
    "a CPU's steps are scheduled one by one": "async_scheduling=false",
    "the weights are in the CPU's memory already": _OFFLOADING,
}


def literal(text: str) -> Any:
    """A number or JSON where `text` is that, else `text`: for options that are only compared."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _table(reasons: Mapping[str, str]) -> Options:
    """The table of what is written above."""
    words = [(word.partition("="), reason) for reason, options in reasons.items() for word in options.split()]
    return {name: (tuple(map(literal, values.split("|"))), reason) for (name, _, values), reason in words}


REFUSED, NOTED, ON_CPU = map(_table, (_REFUSED, _NOTED, _ON_CPU))


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
