"""The flags of the server: those that are used, those that mean nothing here, and those that are refused."""

from __future__ import annotations

from octavo.cli.flag import Flag, count, memory, names
from octavo.options import Options

SERVER_FLAGS = (
    Flag("host", str, "HOST", "the address to listen on (127.0.0.1); 0.0.0.0 for all"),
    Flag("port", int, "N", "the port to listen on (8000); 0 takes a free one"),
    Flag("uds", str, "PATH", "a Unix socket instead of host and port"),
    Flag("root_path", str, "PATH", "the path that a proxy puts before every other"),
    Flag("ssl_keyfile", str, "FILE", "TLS: the private key"),
    Flag("ssl_certfile", str, "FILE", "TLS: the certificate"),
    Flag("ssl_ca_certs", str, "FILE", "TLS: the authorities that may sign clients' certificates"),
    Flag(
        "ssl_cert_reqs",
        int,
        "N",
        "TLS: whether clients need a certificate: 0 none is asked for, 1 optional, 2 required",
    ),
    Flag(
        "allowed_origins", names, "LIST", "the origins of web pages that may call the server; * is any; none by default"
    ),
    Flag("allowed_methods", names, "LIST", "the HTTP methods that web pages may use (*)"),
    Flag("allowed_headers", names, "LIST", "the headers that web pages may send (*)"),
    Flag("allow_credentials", None, None, "let web pages send cookies"),
    Flag("models_dir", str, "DIR", "a folder of models, which the first request for each of them loads"),
    Flag("model_memory", memory, "SIZE", "all models together take at most SIZE, as 24GiB (0.9 of what is free)"),
    Flag("model_ttl", float, "SECONDS", "unload a model that nobody has asked for so long; never without it"),
    Flag("pin", str, "NAME", "load this model at the start and never unload it; may be repeated", repeat=True),
    Flag("model_control", None, None, "let requests load, unload and reload models, and put them to sleep"),
    Flag("api_key", str, "KEY", "a key that requests must have; may be repeated, and one is enough", repeat=True),
    Flag("api_key_file", str, "FILE", "a YAML file of keys with names, NAME: KEY"),
    Flag("requests_per_minute", int, "N", "at most N requests per minute with one key"),
    Flag("tokens_per_minute", count, "N", "at most N tokens per minute with one key, prompts and outputs together"),
    Flag("max_queued_requests", int, "N", "at most N requests wait for each model (256); more are refused with 503"),
    Flag("max_queued_tokens", count, "N", "at most N tokens of prompts wait for each model (256K)"),
    Flag("max_body_bytes", count, "N", "at most N bytes per request body (4M)"),
    Flag("max_audio_bytes", count, "N", "at most N bytes per audio file (256M); audio may have any length"),
    Flag("data_dir", str, "DIR", "the folder where files and batches are kept; without it there are none"),
    Flag("max_file_bytes", count, "N", "at most N bytes per file that is kept (512M)"),
    Flag("batch_concurrency", int, "N", "at most N lines of batches at a time (16), and one while others ask"),
    Flag("max_header_bytes", count, "N", "at most N bytes of headers per request (64K)"),
    Flag("max_headers", int, "N", "at most N headers per request (100)"),
    Flag("max_prompts", int, "N", "at most N prompts per request (1024)"),
    Flag("max_realtime_sessions", int, "N", "at most N realtime sessions at once (128)"),
    Flag("max_realtime_seconds", float, "SECONDS", "the most audio that a realtime session may have waiting (600)"),
    Flag("response_store", str, "FILE", "keep stored responses and conversations in this file, and not in memory"),
    Flag("max_stored_responses", count, "N", "at most N stored responses and conversations (4K)"),
    Flag("max_stored_bytes", count, "N", "at most N bytes of them (128M)"),
    Flag(
        "request_timeout",
        float,
        "SECONDS",
        "the longest that a whole answer may take (600); a header x-request-timeout may shorten it",
    ),
    Flag("header_timeout", float, "SECONDS", "the longest that a request's headers may take to arrive (30)"),
    Flag("body_timeout", float, "SECONDS", "the longest that a request's body may take to arrive (60)"),
    Flag("write_timeout", float, "SECONDS", "the longest that a client may read nothing (30)"),
    Flag("keep_alive_timeout", float, "SECONDS", "the longest that a connection may be unused (75)"),
    Flag("shutdown_timeout", float, "SECONDS", "the longest that running requests may take after SIGTERM (30)"),
    Flag("response_role", str, "ROLE", "the role of answers (assistant)"),
    Flag("log_requests", None, None, "log a line for each request"),
    Flag("log_stats", None, None, "log a line every few seconds while an engine is busy"),
    Flag("log_level", str, "LEVEL", "the lowest level that is logged: debug, info, warning, error or critical"),
    Flag("log_format", str, "FORMAT", "how lines are logged: as text or json"),
    Flag("otlp_traces_endpoint", str, "URL", "send a trace of each request to this OpenTelemetry collector"),
    Flag("enable_docs", None, None, "serve the pages /docs and /openapi.json"),
    Flag("ui", None, None, "serve the page at /, to chat with models and to watch the engine"),
)
# vLLM's spellings of flags above: name -> (its name here, whether it says the opposite).
SPELLINGS = {
    "enable_log_requests": ("log_requests", False),
    "disable_log_requests": ("log_requests", True),
    "disable_log_stats": ("log_stats", True),
    "disable_fastapi_docs": ("enable_docs", True),
    "disable_uvicorn_access_log": ("log_requests", True),
    "uvicorn_log_level": ("log_level", False),
    "max_num_queued_reqs": ("max_queued_requests", False),
    "max_num_queued_tokens": ("max_queued_tokens", False),
}

# Flags of vLLM's server that ask for what is not there: name -> (values that ask for nothing, what is said).
SERVER_REFUSED: Options = {
    "tool_parser_plugin": (("",), "code of others is never run"),
    "middleware": (([],), "code of others is never run; put a proxy in front"),
    "return_tokens_as_token_ids": ((False,), "requests say it, in a field of that name"),
    "enable_ssl_refresh": ((False,), "certificates are read once; start the server again"),
    "engine_use_ray": ((False,), "one machine is supported"),
    "headless": ((False,), "there is one process, which answers HTTP"),
}
# Flags that mean nothing here: name -> (values not worth a word, what is said at start).
SERVER_NOTED: Options = {
    "api_server_count": ((1,), "one process answers HTTP"),
    "chat_template_content_format": (("auto", "string"), "templates get contents as text"),
    "disable_frontend_multiprocessing": ((False,), "there is one process"),
    "enable_auto_tool_choice": ((False,), "tools are always taken"),
    "enable_reasoning": ((False,), "what a model thinks is always told apart"),
    "exclude_tools_when_tool_choice_none": ((False,), "they are always left out"),
    "enable_force_include_usage": ((False,), "ask with stream_options.include_usage"),
    "enable_prompt_tokens_details": ((False,), "they are always told"),
    "enable_request_id_headers": ((False,), "every answer has an x-request-id"),
    "enable_server_load_tracking": ((False,), "/load always tells"),
    "enable_tokenizer_info_endpoint": ((False,), "/tokenizer_info is always there"),
    "max_log_len": ((None,), "prompts are never logged"),
}
