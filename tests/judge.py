"""A judge on loopback that speaks OpenAI's chat completions, as MLflow's scorers ask it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Judge(BaseHTTPRequestHandler):
    """Approves of every answer that has the word "button" in it."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = json.dumps(body["messages"])
        self.server.asked.append((body["model"], asked))
        verdict = {"rationale": "so", "result": "yes" if "button" in asked else "no"}
        message = {"role": "assistant", "content": json.dumps(verdict)}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        raw = json.dumps(answer).encode()
        silent = self.server.silent_on and self.server.silent_on in asked
        self.send_response(400 if silent else self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@contextmanager
def judge_server():
    """Run the judge.

    ``asked`` keeps what it was asked, ``status`` is what it answers with, and it has no verdict on
    answers with the word ``silent_on`` in them.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), _Judge) as server:
        server.asked, server.status, server.silent_on = [], 200, ""
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
