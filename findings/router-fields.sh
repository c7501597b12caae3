#!/usr/bin/env bash
# vllm-router 0.1.17 and sglang-router 0.3.2: a chat that goes through them reaches the server with fields
# that its client did not send, defaults of SGLang's API among them. A server that refuses what it does not know
# refuses every chat behind a router.
# Guess: a proxy passes the body on. Seen, sent with model and messages alone:
#   vllm-router   continue_final_message ignore_eos include_reasoning logprobs no_stop_trim return_hidden_states
#                 separate_reasoning skip_special_tokens stream stream_reasoning
#   sglang-router the same without include_reasoning
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv env
env/bin/pip install -q vllm-router==0.1.17 sglang-router==0.3.2
env/bin/python - <<'PYTHON'
import json
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}], "choices": []}).encode()
seen = []


class Server(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    do_GET = answer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/chat/completions":
            seen.append(body)
        self.answer()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
COMMON = {"continue_final_message", "ignore_eos", "logprobs", "no_stop_trim", "return_hidden_states"}
COMMON |= {"separate_reasoning", "skip_special_tokens", "stream", "stream_reasoning"}
for words, expected in ((["vllm-router"], COMMON | {"include_reasoning"}), (["sglang-router", "launch"], COMMON)):
    port = free_port()
    command = [f"env/bin/{words[0]}", *words[1:], "--worker-urls", f"http://127.0.0.1:{server.server_port}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    seen.clear()
    router = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(request, timeout=10).read()
        except OSError:
            time.sleep(0.5)
    router.terminate()
    router.wait()
    added = set(seen[0]) - set(body)
    print(words[0], *sorted(added))
    assert added == expected, added ^ expected
PYTHON
