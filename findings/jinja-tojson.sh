#!/usr/bin/env bash
# jinja2 3.1.6 against transformers 5.23.0: the `tojson` of a chat template is not jinja2's: jinja2 sorts
# keys and escapes <, >, & and ' for HTML; transformers does neither.
# Guess: a template rendered in jinja2's sandbox gives what transformers gives. Seen:
#   jinja2:       {"content": "a\u003cb \u0026 c", "role": "user"}
#   transformers: {"role": "user", "content": "a<b & c"}
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q transformers==5.23.0 numpy==2.4.6 jinja2==3.1.6
env/bin/python - <<'PYTHON'
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import render_jinja_template

template = "{{ messages[0] | tojson }}"
messages = [{"role": "user", "content": "a<b & c"}]
plain = ImmutableSandboxedEnvironment().from_string(template).render(messages=messages)
rendered, _ = render_jinja_template([messages], chat_template=template)
print(f"jinja2:       {plain}")
print(f"transformers: {rendered[0]}")
assert plain != rendered[0] and rendered[0] == '{"role": "user", "content": "a<b & c"}'
PYTHON
