#!/usr/bin/env bash
# openai 2.54.0 for Python: with _strict_response_validation the client refuses the embeddings that it asked for
# itself. It sends encoding_format base64 of its own accord, and decodes the answer after it has validated it against
# a type that has lists of numbers alone.
# Guess: what the client asks for by default passes its own validation. Seen:
#   plain client [0.5, -1.0], validating client APIResponseValidationError, with encoding_format float [0.5, -1.0]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q openai==2.54.0 httpx==0.28.1
env/bin/python - <<'PYTHON'
import base64
import json
import struct

import httpx
import openai

VECTOR = [0.5, -1.0]


def answer(request: httpx.Request) -> httpx.Response:
    is_text = json.loads(request.content).get("encoding_format") == "base64"
    packed = base64.b64encode(struct.pack("<2f", *VECTOR)).decode()
    entry = {"object": "embedding", "index": 0, "embedding": packed if is_text else VECTOR}
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return httpx.Response(200, json={"object": "list", "data": [entry], "model": "m", "usage": usage})


def embed(is_strict: bool, **more: str) -> object:
    client = openai.OpenAI(
        api_key="none", base_url="http://server/v1", _strict_response_validation=is_strict,
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
    )
    try:
        return client.embeddings.create(model="m", input="x", **more).data[0].embedding
    except openai.APIResponseValidationError as error:
        return type(error).__name__


plain, strict, floats = embed(False), embed(True), embed(True, encoding_format="float")
print(f"plain client {plain}, validating client {strict}, with encoding_format float {floats}")
assert (plain, strict, floats) == (VECTOR, "APIResponseValidationError", VECTOR)
PYTHON
