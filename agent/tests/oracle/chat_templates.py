"""The texts that agent/tests/it/template.rs must reproduce: chat templates rendered by transformers itself.

    pip install transformers==5.23.0 jinja2==3.1.6
    python3 agent/tests/oracle/chat_templates.py > agent/tests/golden/chat_templates.json

The templates have the shapes of well-known ones (the headers, what they strip, drop or refuse), in few words of our own;
`language` and `texts` instead use what Jinja, Python's texts and transformers' environment offer to templates.
"""

import json

from transformers.utils.chat_template_utils import render_jinja_template

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SMOL = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small helper.<|im_end|>\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

QWEN2 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helper made far away.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helper made far away.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {{- '\\n<tool_call>\\n' + (tool_call.arguments | tojson) + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

LLAMA3 = (
    "{% set loop_messages = messages %}"
    "{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

LLAMA3_DATED = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MINICPM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<用户>' + message['content'].strip() + '<AI>' }}"
    "{% else %}{{ message['content'].strip() }}{% endif %}"
    "{% endfor %}"
)

PHI3 = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

# Drops the reasoning of all turns but the last, as Qwen3 and DeepSeek-R1 do.
THINKING = """\
{%- set ns = namespace(last_query=messages|length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not message.content.startswith('<tool_response>') %}
        {%- set ns.searching = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# Raises where roles do not take turns; the system prompt goes into the last message of the user.
MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
"""

VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{{ messages[0]['content'] }}"
    "{% else %}{% set rest = messages %}{{ 'A chat.' }}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}{{ ' USER: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)

LANGUAGE = """\
{#- comments go -#}
{%- macro header(role, mark='#') -%}
{{ mark }} {{ role | upper }}{% if caller is defined %}!{% endif %}
{% endmacro -%}
{% set ns = namespace(count=0, roles=[]) %}
    {% for message in messages if message.role != 'system' %}
  {% if loop.index > 4 %}
    {% break %}
  {% endif %}
  {% if message.content == '' %}{% continue %}{% endif %}
{{ header(message.role) }}{{ header(message.role, mark='##') }}
    {% generation %}
{{ loop.index }}/{{ loop.length }} {{ loop.first }} {{ loop.last }} {{ loop.previtem.role if not loop.first }} {{ message.content | tojson }}
    {% endgeneration %}
{% set ns.count = ns.count + 1 %}
{% set ns.roles = ns.roles + [message.role] %}
{% endfor %}
{% for message in messages if message.role == 'nobody' %}{{ message }}{% else %}nobody{% endfor %}

{{ ns.count }} {{ ns.roles }} {{ ns.roles | join(', ') }} {{ ns.roles | unique | list }}
{{ none }} {{ true }} {{ missing }} {{ missing is defined }} {{ bos_token }} {{ tools }} {{ tools is none }}
{{ [1, 2.5, 'x', "it's", none, {'a': [true]}] }} {{ {'role': 'user', 'n': 3} | tojson }}
{{ {'a': [1, {'b': []}], 'c': 'é\\n"'} | tojson(indent=2) }}
{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 3 * 4 }} {{ 1 + 2.5 }} {{ -3 }} {{ 'a' ~ 1 ~ none }}
{{ messages[0].role }} {{ messages[-1]['role'] }} {{ messages[0].get('name', 'nameless') }} {{ messages[0].missing }}
{{ messages | map(attribute='role') | list }} {{ messages[1:] | length }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abc'[-1] }}
{{ 'user' in messages[0].values() }} {{ 'role' in messages[0] }} {{ 'x' not in 'abc' }} {{ 2 in [1, 2] }}
{% for key, value in {'a': 1, 'b': 2}.items() %}{{ key }}={{ value }};{% endfor %}

{{ 'yes' if add_generation_prompt else 'no' }} {{ 'only' if false }} {{ missing | default('d') }} {{ '' | default('e', true) }}
{{- '  both sides' -}}
   {% if true -%}   trimmed   {%- endif %}   kept
{% set block %}captured {{ 1 + 1 }}{% endset %}{{ block | length }} {{ block | replace('captured', 'c') }}
{{ range(3) | list }} {% for i in range(1, 8, 3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}

{{ 'x' is string }} {{ [] is sequence }} {{ {} is mapping }} {{ 1 is number }} {{ 'x' is iterable }} {{ none is not none }}
end
"""

TEXTS = """\
{%- for message in messages %}
{%- set t = message.content -%}
[{{ t.strip() }}|{{ t.lstrip() }}|{{ t.rstrip() }}|{{ t.strip('\\n') }}|{{ t | trim }}]
[{{ t.split() }}|{{ t.split('\\n') }}|{{ t.split(' ', 1) }}|{{ t.rsplit(' ', 1) }}|{{ t.splitlines() }}]
[{{ t.upper() }}|{{ t.lower() }}|{{ t.title() }}|{{ t.capitalize() }}|{{ t.replace('o', '00') }}|{{ t.replace(' ', '_', 2) }}]
[{{ t.startswith('You') }}|{{ t.endswith('\\n') }}|{{ t.find('a') }}|{{ t.rfind('a') }}|{{ t.count('o') }}|{{ t.isdigit() }}|{{ t.isspace() }}]
[{{ t.removeprefix('You') }}|{{ t.removesuffix('.') }}|{{ '-'.join(t.split()) }}|{{ t | length }}|{{ t[:3] }}|{{ t | tojson }}]
{% endfor -%}
"""

TEMPLATES = {
    "chatml": (CHATML, None, "<|im_end|>"),
    "smollm2": (SMOL, "<|im_start|>", "<|im_end|>"),
    "qwen2": (QWEN2, None, "<|im_end|>"),
    "llama2": (LLAMA2, "<s>", "</s>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_dated": (LLAMA3_DATED, "<|begin_of_text|>", "<|eot_id|>"),
    "minicpm": (MINICPM, "<s>", "</s>"),
    "phi3": (PHI3, "<s>", "<|endoftext|>"),
    "gemma": (GEMMA, "<bos>", "<eos>"),
    "thinking": (THINKING, None, "<|im_end|>"),
    "mistral": (MISTRAL, "<s>", "</s>"),
    "vicuna": (VICUNA, "<s>", "</s>"),
    "language": (LANGUAGE, "<s>", "</s>"),
    "texts": (TEXTS, None, None),
}

ONLY = {"language": ["turns", "system", "unicode", "empty"], "texts": ["opening", "blanks", "unicode", "empty"]}

ROOM = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
    "cabinet 2, a desk 1, and a garbagecan 1.\n\nYour task is to: put a clean mug in desk."
)
SYSTEM = "You act in a house. Answer with one command."

CONVERSATIONS = {
    "opening": ["user", ROOM],
    "turns": [
        "user", ROOM, "assistant", "go to desk 1", "user", "On the desk 1, you see a mug 1, and a pen 2.",
        "assistant", "take mug 1 from desk 1", "user", "You pick up the mug 1 from the desk 1.",
    ],
    "system": ["system", SYSTEM, "user", "You see a desk 1.", "assistant", "look", "user", "Nothing happens."],
    "closed": ["user", "You see a mug 1.", "assistant", "take mug 1", "user", "Done.", "assistant", "look"],
    "blanks": ["user", "\n  You see a mug.\n\n", "assistant", " \ttake  mug 1 \n", "user", "\u00a0Done. \n"],
    "unicode": ["user", "Ein Käse «1», 日本 🙂 {{ x }} <b>&amp;</b> it's \"1\" \\n", "assistant", "nimm 取る", "user", "été"],
    "reasoning": [
        "user", "You see a mug 1.", "assistant", "<think>\nA mug.\n</think>\n\ntake mug 1", "user", "Done.",
        "assistant", "<think>\nNow?\n</think>\n\nlook", "user", "You see nothing.",
    ],
    "twice": ["user", "One.", "user", "Two."],
    "leading": ["assistant", "look", "user", "You see a mug 1."],
    "empty": ["user", "", "assistant", "", "user", ""],
}


def rendered(template, bos, eos, messages, asks):
    special = {name: text for name, text in [("bos_token", bos), ("eos_token", eos)] if text is not None}
    try:
        texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=asks, **special)
        return {"text": texts[0]}
    except Exception as error:
        return {"error": str(error)}


def main():
    conversations = {
        name: [{"role": role, "content": content} for role, content in zip(words[::2], words[1::2])]
        for name, words in CONVERSATIONS.items()
    }
    templates = []
    for name, (source, bos, eos) in TEMPLATES.items():
        cases = [
            {"conversation": told, "add_generation_prompt": asks, **rendered(source, bos, eos, messages, asks)}
            for told, messages in conversations.items()
            for asks in ([True, False] if told in ("turns", "closed", "reasoning") else [True])
            if name not in ONLY or told in ONLY[name]
        ]
        templates.append({"name": name, "source": source, "bos": bos, "eos": eos, "cases": cases})
    print(json.dumps({"conversations": conversations, "templates": templates}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
