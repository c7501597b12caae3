#!/usr/bin/env bash
# langchain-openai 1.7.4 knows a prompt that is too long by `context_length_exceeded` in the text of the
# exception. openai 3.57.0 puts only the message there, openai 2.54.0 the whole body with the code.
# Guess: OpenAI's error object gives a ContextOverflowError with any openai that the package allows. Seen:
#   openai 2.54.0: code context_length_exceeded, OpenAIContextOverflowError
#   openai 3.57.0: code context_length_exceeded, OpenAIInvalidRequestError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
cat > ask.py <<'PYTHON'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI

ERROR = {
    "message": "This model's maximum context length is 8192 tokens. However, your messages "
    "resulted in 9000 tokens. Please reduce the length of the messages.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}


class Refuse(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"error": ERROR}).encode()
        self.send_response(400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


server = HTTPServer(("127.0.0.1", 0), Refuse)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"
try:
    ChatOpenAI(model="m", base_url=url, api_key="none", max_retries=0).invoke("hello")
except openai.BadRequestError as error:
    print(f"openai {openai.__version__}: code {error.code}, {type(error).__name__}")
    assert error.code == "context_length_exceeded"
    assert isinstance(error, ContextOverflowError) is (sys.argv[1] == "known")
else:
    raise SystemExit("the server's error did not arrive")
PYTHON
for version in 2.54.0:known 3.57.0:unknown; do
    python3 -m venv env
    env/bin/pip install -q langchain-openai==1.7.4 langchain-core==1.8.3 "openai==${version%:*}"
    env/bin/python ask.py "${version#*:}"
    rm -rf env
done
