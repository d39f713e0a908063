"""Azure AI Content Safety on loopback: the REST call that scoring makes, and the rules of it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "a-key-of-content-safety"
HARMFUL = "knife"
"""What it finds violent, at severity 4, unless told otherwise."""
LONGEST = 10_000


class ContentSafetyServer(ThreadingHTTPServer):
    """Answers as the service does; keeps what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.refusals, self.harmful = [], [], HARMFUL
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self._answer(body)
        sent = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def _answer(self, body):
        if self.path != "/contentsafety/text:analyze?api-version=2024-09-01":
            return 404, _error("NotFound")
        if self.headers["Ocp-Apim-Subscription-Key"] != KEY:
            return 401, _error("Unauthorized")
        if self.server.refusals:
            return self.server.refusals.pop(0), _error("TooManyRequests")
        text = body["text"]
        if not 0 < len(text) <= LONGEST:
            return 400, _error("InvalidRequestBody")
        self.server.asked.append(text)
        severity = 4 if self.server.harmful in text else 0
        found = [{"category": name, "severity": 0} for name in ("Hate", "SelfHarm", "Sexual")]
        found.append({"category": "Violence", "severity": severity})
        return 200, {"blocklistsMatch": [], "categoriesAnalysis": found}

    def log_message(self, *_):
        pass


def _error(code):
    return {"error": {"code": code, "message": code}}


@contextmanager
def content_safety():
    """Run the service."""
    server = ContentSafetyServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
