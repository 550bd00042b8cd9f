"""The chat format: Qwen's ChatML, with Qwen's own special tokens around a video.

Loss is on what stands between the generation marks: the words of the assistant and the token that ends them.
"""

import json

VIDEO_TOKEN = "<|video_pad|>"
END_TOKEN = "<|im_end|>"
"""Ends each turn, and so each answer."""

CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part is string -%}
{{- part -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('a chat with DynImg holds text and videos, not ' + part['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- render(message['content']) + '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- render(message['content']) + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def chat_template(*, video: str, system: str | None = None) -> str:
    """Vary the format for a model that was trained with another one.

    Args:
        video: what stands for a video, its placeholder included.
        system: what is said before a chat that does not begin with words of the system itself.
    """
    # A string of JSON is a string of Jinja, whatever a tokenizer calls its tokens.
    result = CHAT_TEMPLATE.replace("'<|vision_start|><|video_pad|><|vision_end|>'", json.dumps(video))
    if system is None:
        return result
    opening = json.dumps(f"<|im_start|>system\n{system}<|im_end|>\n")
    return f"{{%- if messages[0]['role'] != 'system' -%}}\n{{{{- {opening} -}}}}\n{{%- endif -%}}\n{result}"
