"""A small Hugging Face Hub on loopback, so that the real download code runs without the network.

    with Hub({"org/name": {"main": {"config.json": b"{}", "model.safetensors": b"..."}}}) as hub:
        subprocess.run([...], env=environment(tmp_path, hub.url))

HF_ENDPOINT and HF_HOME are read when huggingface_hub is imported, so whatever downloads must be its own process."""
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Hub:
    """repos: {"org/name": {revision: {file: bytes}}}; "gated" instead of the revisions is a gated repository.
    cut: files whose bodies end half way; short: files whose length is said to be less than HEAD said; busy: {path: statuses to answer
    first}; moved: set it after a change of the files. `requests` lists what was asked for, as "GET /org/name/resolve/main/file"."""

    def __init__(self, repos, cut=(), short=(), busy=None):
        self.repos, self.cut, self.short, self.busy, self.requests, self.moved = repos, cut, short, busy or {}, [], ""

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.requests.append(f"{self.command} {self.path}")
                status, headers, body = hub.answer(self.path)
                if hub.busy.get(self.path):
                    status, headers, body = hub.busy[self.path].pop(0), {"Retry-After": "0"}, b""
                if self.command == "GET" and self.path.endswith(tuple(hub.short) or ("\0",)):
                    body = body[:len(body) // 2]
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    is_cut = self.path.endswith(tuple(hub.cut)) if hub.cut else False
                    self.wfile.write(body[:len(body) // 2] if is_cut else body)
                    self.close_connection = is_cut

            do_GET = do_HEAD
            log_message = lambda self, *args: None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path):
        """/org/name/resolve/revision/file -> status, headers, body, as huggingface.co answers."""
        if path.startswith("/api/models/"):
            org, name, _, revision = path.removeprefix("/api/models/").partition("?")[0].split("/")[:4]
            files = self.repos[f"{org}/{name}"][revision]
            entries = [{"type": "file", "path": file, "size": len(files[file]), "oid": "0" * 40} for file in files]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
        org, name, _, revision, file = path.strip("/").split("/", 4)
        revisions = self.repos.get(f"{org}/{name}")
        if revisions is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revisions == "gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commits = {hashlib.sha1(f"{org}/{name}/{r}{self.moved}".encode()).hexdigest(): r for r in revisions}
        revision = commits.get(revision, revision)
        if revision not in revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": next(commit for commit, r in commits.items() if r == revision)}
        if file not in revisions[revision]:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        body = revisions[revision][file]
        return 200, {**headers, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body


def environment(home, endpoint, offline=False):
    """-> os.environ for a process that uses this hub, with its cache under `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            and not key.lower().endswith("_proxy")}
    return {**kept, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline)), "PYTHONPATH": ROOT,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def python(code, home, endpoint, offline=False):
    """Run `code` in the project with this hub; -> what it printed."""
    done = subprocess.run([sys.executable, "-c", code], env=environment(home, endpoint, offline), cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
