"""A minimal model hub for huggingface_hub, on a local port."""

import http.server
import json
import threading


def serve(handler) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Hub(http.server.BaseHTTPRequestHandler):
    """Requests of a snapshot download. `server.files` maps names to contents."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        files, commit = self.server.files, "c" * 40
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/model/revision/"):
            self.reply(json.dumps({"id": "org/model", "sha": commit, "siblings": []}).encode())
        elif path.startswith("/api/models/org/model/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in files.items()
            ]
            self.reply(json.dumps(tree).encode())
        elif (name := path.removeprefix(f"/org/model/resolve/{commit}/")) in files:
            self.server.sent.append(name)
            self.reply(files[name], body, {"ETag": f'"{name}"', "X-Repo-Commit": commit})
        else:
            self.send_error(404)

    def reply(self, content: bytes, body=True, headers=()) -> None:
        self.send_response(200)
        for header, value in dict(headers).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass
