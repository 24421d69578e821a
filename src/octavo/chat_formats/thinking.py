"""How models write thinking. Another way is another entry; sources are those of `octavo.chat_formats.table`."""

from __future__ import annotations

from octavo.chat_formats.syntax import Thinking

THINKING = (
    Thinking(
        name="think",
        parsers=(
            *("qwen3", "deepseek_v3", "glm45", "glm47", "holo2", "hunyuan_a13b", "mimo", "nemotron_v3", "olmo3"),
            *("ernie45", "kimi_k2", "hy_v3", "deepseek_v4", "poolside_v1"),
        ),
        begin="<think>",
        end="</think>",
    ),
    Thinking(
        name="think-always",
        parsers=("deepseek_r1", "step3", "step3p5", "minimax_m2"),
        begin="<think>",
        end="</think>",
        always=True,
    ),
    Thinking(name="seed", parsers=("seed_oss",), begin="<seed:think>", end="</seed:think>"),
    Thinking(name="mistral", parsers=("mistral",), begin="[THINK]", end="[/THINK]"),
    Thinking(name="command", parsers=("cohere_command3",), begin="<|START_THINKING|>", end="<|END_THINKING|>"),
    Thinking(name="apertus", parsers=(), begin="<|inner_prefix|>", end="<|inner_suffix|>"),
    Thinking(
        name="granite",
        parsers=("granite",),
        begin="Here is my thought process:",
        end="Here is my response:",
    ),
    Thinking(name="gemma4", parsers=("gemma4",), begin="<|channel>thought\n", end="<channel|>"),
    Thinking(
        name="harmony",
        parsers=("openai_gptoss",),
        begin="<|channel|>analysis<|message|>",
        end="<|end|>",
        detect="<|channel|>analysis",
    ),
)
