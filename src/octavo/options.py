"""Options of vLLM's engine that Octavo has no use for: those that are refused, and those that are noted.

Both tables are name -> (values that ask for nothing, the reason or the note). None and empty containers never ask for
anything. A value that is True or False makes a switch of the flag, an empty list one that takes several words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Options = dict[str, tuple[tuple[Any, ...], str]]


def _each(reason: str, /, **neutral: Any) -> Options:
    """One reason for several options, each with the value that asks for nothing, or a tuple of such values."""
    return {name: (values if isinstance(values, tuple) else (values,), reason) for name, values in neutral.items()}


def asks(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether an option's value wants something. Entries of 0, False or nothing in a mapping want nothing either."""
    if isinstance(value, Mapping):
        value = {name: entry for name, entry in value.items() if entry}
    empty = isinstance(value, Collection) and len(value) == 0
    return not (value is None or empty or any(value == one and (value is True) == (one is True) for one in neutral))


LORA = "LoRA adapters are not supported yet"
_SPECULATION = "speculative decoding is not supported yet"
_REASONING = "reasoning is not taken apart yet"

# Options that ask for what is not there.
REFUSED: Options = {
    **_each(
        "one device is supported",
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        data_parallel_size_local=(0, 1),
        data_parallel_rank=0,
        data_parallel_start_rank=0,
        data_parallel_hybrid_lb=False,
        data_parallel_external_lb=False,
        data_parallel_multi_port_external_lb=False,
        prefill_context_parallel_size=1,
        decode_context_parallel_size=1,
        nnodes=1,
        node_rank=0,
        enable_elastic_ep=False,
        device_ids=([], [0]),
    ),
    "quantization": (("gguf",), "not supported yet; GGUF files are unpacked to the model's dtype while loading"),
    **_each(LORA, enable_lora=False, lora_modules=[], default_mm_loras=None, qlora_adapter_name_or_path=None),
    **_each(_SPECULATION, speculative_config={}, speculative_model=None, num_speculative_tokens=0),
    **_each(_SPECULATION, spec_method=None, spec_model=None, spec_tokens=0, ngram_prompt_lookup_max=None),
    **_each("prompt adapters are not supported", enable_prompt_adapter=False),
    **_each(_REASONING, reasoning_parser="", reasoning_parser_plugin="", reasoning_config={}),
    **_each(
        "only generation of text, and of text from speech, is supported yet",
        runner=("auto", "generate"),
        convert=("auto", "none"),
        pooler_config={},
        override_pooler_config={},
        diffusion_config={},
    ),
    **_each(
        "prompts are texts, or one audio for Whisper",
        limit_mm_per_prompt=({"audio": 1}, "audio=1"),
        enable_mm_embeds=False,
        mm_encoder_only=False,
        interleave_mm_strings=False,
        video_pruning_rate=0.0,
    ),
    "enable_prompt_embeds": ((False,), "prompts are text or token ids"),
    "skip_tokenizer_init": ((False,), "a tokenizer is always loaded"),
    "tokenizer_revision": ((None,), "write it as tokenizer='ORG/NAME@REVISION'"),
    "load_format": (
        ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "gguf", "mmap"),
        "safetensors and GGUF are supported",
    ),
    "config_format": (("auto", "hf"), "a config.json, or a GGUF file's metadata, is read"),
    **_each("say where the model's files are with model", model_weights="", hf_config_path=None),
    **_each(
        "change config.json instead", hf_overrides={}, rope_scaling={}, rope_theta=None, disable_sliding_window=False
    ),
    **_each("architectures are declared in octavo.models", model_class_overrides={}),
    **_each("quantized models are not supported yet", quantization_config={}, allow_deprecated_quantization=False),
    **_each(
        "the KV cache has the type of the model; leave it out",
        kv_cache_dtype="auto",
        kv_cache_dtype_skip_layers=[],
        calculate_kv_scales=False,
    ),
    **_each(
        "the KV cache stays in this process",
        kv_transfer_config={},
        kv_events_config={},
        ec_transfer_config={},
        ec_manager_config={},
        kv_offloading_size=0,
    ),
    **_each("code of others is never run", logits_processors=[], io_processor_plugin="", scheduler_cls=None),
    **_each("code of others is never run", worker_extension_cls="", logits_processor_pattern=None),
    "logprobs_mode": (("raw_logprobs",), "log-probabilities are those of the model, before any penalty"),
    **_each(
        "such values are not returned",
        enable_return_routed_experts=False,
        return_sampling_mask=False,
        enable_trace_replay=False,
        aux_output_config={},
    ),
    "watermark_config": (({},), "texts are not watermarked"),
    **_each("weights are loaded once", enable_sleep_mode=False, weight_transfer_config={}),
    "fail_on_environ_validation": ((False,), "variables that mean nothing here are noted, never an error"),
    "otlp_traces_endpoint": (("",), "no traces are sent; /metrics tells"),
    "tokens_only": ((False,), "prompts are tokenized here"),
}

# Options that move weights off a GPU: refused on a GPU, and noted on a CPU.
_OFFLOADING: dict[str, Any] = {"cpu_offload_gb": 0, "offload_group_size": 0}
_OFFLOADING |= {"cpu_offload_params": [], "offload_params": []}
REFUSED |= _each("weights stay on the GPU; a smaller model needs less of its memory, device cpu none", **_OFFLOADING)

_ONE_PROCESS = "there is one process and one device"
_EXPERTS = "mixtures of experts are not supported yet"
_IMAGES = "there are no images and videos"
_MAMBA = "there are no state-space models"
_NO_ADAPTERS = "there are no adapters"
_TRACING = "/metrics tells what is measured"
_FIXED = "kernels are chosen for the processor, or for the GPU"
_LOADING = "files are mapped into memory"

# Options that mean nothing here.
NOTED: Options = {
    "trust_remote_code": ((False,), "no code of a model is ever run; its architecture must be known here"),
    "swap_space": ((0, 4), "nothing is swapped: a preempted request is computed again"),
    "disable_log_stats": ((False,), "no statistics are logged here"),
    **_each("requests are not logged here", disable_log_requests=False, enable_log_requests=False),
    "disable_async_output_proc": ((False,), "there is no such processor"),
    "tokenizer_mode": (("auto", "hf"), "there is one kind of tokenizer"),
    "use_v2_block_manager": ((True,), "there is one block manager"),
    **_each("steps are scheduled one by one", num_scheduler_steps=1, num_lookahead_slots=0),
    "async_scheduling": ((True,), "a GPU's steps are always scheduled one ahead"),
    **_each("every token is told as it comes", stream_interval=1, multi_step_stream_outputs=True),
    "max_seq_len_to_capture": ((8192,), "no graph depends on a length"),
    "chunked_prefill_size": ((None,), "use max_num_batched_tokens"),
    "hf_token": ((None,), "set HF_TOKEN instead"),
    "served_model_name": ((None,), "a server has names for its models: octavo serve --served-model-name"),
    **_each("set the level of Python's logger octavo", log_level=None, logging_config={}, log_config_file=None),
    "aggregate_engine_logging": ((False,), "there is one engine"),
    "shutdown_timeout": ((0,), "octavo serve has it; here close() ends at once"),
    **_each("octavo serve limits what waits", max_num_queued_reqs=None, max_num_queued_tokens=None),
    "use_tqdm_on_load": ((True,), "loading shows no bar"),
    **_each("no file or site of a prompt is ever read", allowed_local_media_path="", allowed_media_domains=[]),
    **_each("structured output is not supported yet", structured_outputs_config={}, guided_decoding_backend="auto"),
    "model_impl": (("auto",), "there is one implementation"),
    "code_revision": ((None,), "no code of a model is ever run"),
    "max_num_scheduled_tokens": ((None,), "use max_num_batched_tokens"),
    "max_num_active_seqs": ((None,), "use max_num_seqs"),
    "optimization_level": ((0, 1, 2, 3), "there are no levels"),
    "performance_mode": (("balanced",), "there is one mode"),
    "additional_config": (({},), "no platform is plugged in"),
    **_each("nothing about compilation can be set", compilation_config=({}, 0), cudagraph_capture_sizes=[]),
    **_each("nothing about compilation can be set", max_cudagraph_capture_size=None, enable_flashinfer_autotune=False),
    **_each("nothing about compilation can be set", jit_monitor_mode="warn", jit_monitor_verbose=False),
    **_each(
        _FIXED,
        attention_backend=None,
        attention_config={},
        kernel_config={},
        linear_backend="auto",
        sparse_indexer_topk_backend="auto",
        ir_op_priority={},
        monokernel=False,
        disable_cascade_attn=False,
        use_fp64_gumbel=False,
        gdn_prefill_backend=None,
        kda_prefill_backend=None,
        kda_decode_backend=None,
        override_neuron_config={},
    ),
    **_each(
        _ONE_PROCESS,
        worker_cls="auto",
        distributed_executor_backend=("mp", "uni"),
        disable_custom_all_reduce=False,
        master_addr="127.0.0.1",
        master_port=29501,
        distributed_timeout_seconds=None,
        cpu_distributed_timeout_seconds=None,
        data_parallel_address=None,
        data_parallel_rpc_port=None,
        data_parallel_backend="mp",
        dcp_comm_backend=None,
        dcp_q_replicate=False,
        dcp_kv_cache_interleave_size=1,
        cp_kv_cache_interleave_size=1,
        disable_nccl_for_dp_synchronization=False,
        dp_sync_interval=16,
        max_parallel_loading_workers=None,
        ray_workers_use_nsight=False,
        enable_shm_tensor_arena=False,
        renderer_num_workers=1,
        enable_hc_sp=False,
        enable_batch_sharded_sampling=False,
        enable_dbo=False,
        ubatch_size=0,
        dbo_decode_token_threshold=32,
        dbo_prefill_token_threshold=512,
        enable_nccl_comm_suspend=False,
        fault_tolerance_config={},
        enable_fault_tolerance=False,
        watchdog_config={},
        tokenizer_pool_size=0,
        tokenizer_pool_type="ray",
        tokenizer_pool_extra_config={},
    ),
    **_each(
        "say which processors with taskset, and how many with OCTAVO_NUM_THREADS",
        numa_bind=False,
        numa_bind_nodes=[],
        numa_bind_cpus=[],
    ),
    **_each(
        _EXPERTS,
        enable_expert_parallel=False,
        enable_ep_weight_filter=False,
        moe_backend="auto",
        all2all_backend="allgather_reducescatter",
        elastic_ep_max_dp_size=None,
        eplb_config={},
        enable_eplb=False,
        expert_placement_strategy="linear",
    ),
    **_each(
        "blocks are kept, shared and freed in one way",
        prefix_caching_hash_algo="sha256",
        prefix_cache_retention_interval=0,
        prefix_match_unit=None,
        disable_hybrid_kv_cache_manager=False,
        kv_offloading_backend="native",
        kv_sharing_fast_prefill=False,
        swa_bounded_replay=True,
        watermark=0.0,
        preemption_mode=None,
        enable_cumem_allocator=False,
        sleep_mode_backend="cumem",
        sleep_mode_offload_cudagraph=False,
        sleep_preserve_parameter_names=[],
    ),
    **_each(
        "prompts are computed in the order in which they came, in chunks of what a step has left",
        long_prefill_token_threshold=0,
        long_prefill_token_threshold_adaptive=False,
        scheduler_reserve_full_isl=True,
        prefill_schedule_interval=1,
        scheduler_delay_factor=0.0,
        max_num_partial_prefills=1,
        max_long_partial_prefills=1,
        disable_chunked_mm_input=False,
    ),
    **_each(
        _LOADING,
        safetensors_load_strategy=None,
        safetensors_prefetch_num_threads=None,
        safetensors_prefetch_block_size=None,
        model_loader_extra_config={},
        ignore_patterns=[],
        pt_load_map_location="cpu",
    ),
    **_each(
        "nothing is offloaded",
        offload_backend="auto",
        offload_num_in_group=1,
        offload_prefetch_step=1,
    ),
    **_each(
        _IMAGES,
        language_model_only=False,
        media_io_kwargs={},
        mm_processor_kwargs={},
        disable_mm_preprocessor_cache=False,
        mm_processor_cache_gb=4,
        mm_processor_cache_type="lru",
        mm_hasher_algorithm="blake3",
        mm_shm_cache_max_object_size_mb=128,
        mm_encoder_tp_mode="weights",
        mm_encoder_attn_backend=None,
        mm_encoder_attn_dtype=None,
        mm_encoder_fp8_scale_path=None,
        mm_encoder_fp8_scale_save_path=None,
        mm_encoder_fp8_scale_save_margin=1.5,
        skip_mm_profiling=False,
        video_pruning_method="evs",
        mm_tensor_ipc="direct_rpc",
        mm_processor_device="auto",
        mm_ipc_gpu_memory_gb=0,
        mm_device_do_normalize=True,
        enable_mm_processor_stats=False,
    ),
    **_each(
        _NO_ADAPTERS,
        max_loras=1,
        max_lora_rank=16,
        max_cpu_loras=None,
        fully_sharded_loras=False,
        lora_dtype="auto",
        lora_target_modules=[],
        lora_extra_vocab_size=256,
        long_lora_scaling_factors=None,
        enable_lora_bias=False,
        enable_tower_connector_lora=False,
        specialize_active_lora=False,
        enable_mixed_moe_lora_format=False,
        enable_moe_shared_loras=False,
        max_lora_cls_labels=None,
        max_prompt_adapters=1,
        max_prompt_adapter_token=0,
    ),
    **_each(
        _TRACING,
        show_hidden_metrics_for_version=None,
        collect_detailed_traces=[],
        per_request_spec_decode_metrics="none",
        kv_cache_metrics=False,
        kv_cache_metrics_sample=0.01,
        custom_histogram_buckets={},
        cudagraph_metrics=False,
        enable_layerwise_nvtx_tracing=False,
        enable_mfu_metrics=False,
        enable_logging_iteration_details=False,
        profiler_config={},
    ),
    **_each(
        _MAMBA,
        engram_config={},
        mamba_config={},
        mamba_cache_dtype="auto",
        mamba_ssm_cache_dtype="auto",
        mamba_block_size=None,
        mamba_cache_mode=None,
        mamba_backend="triton",
        mamba_ssu_algorithm=None,
        enable_mamba_shared_prefix_checkpoint=False,
        enable_mamba_cache_stochastic_rounding=False,
        mamba_cache_philox_rounds=0,
        replayssm_buffer_len=16,
        use_replayssm=False,
    ),
}

# What is noted on a CPU, instead of what the tables above and `EngineConfig` make of it on a GPU.
ON_CPU: Options = {
    "enforce_eager": ((False,), "a CPU has no CUDA graphs"),
    "async_scheduling": ((False,), "a CPU's steps are scheduled one by one"),
    **_each("the weights are in the CPU's memory already", **_OFFLOADING),
}
