"""The shop's customer service: answers who a customer is, as JSON, and 404 for one who is gone.

    python flows/patterns/data/serve_customers.py     # http://127.0.0.1:8321/customers/c001
"""

from __future__ import annotations

import argparse
import contextlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def present() -> dict[str, dict[str, str]]:
    """Each customer as the last event about him says; without those who are gone."""
    paths = sorted((Path(__file__).parent / "customers").glob("*.jsonl"))
    lines = [line for path in paths for line in path.read_text().splitlines()]
    last = {state["customer_id"]: state for state in map(json.loads, lines)}
    return {key: state for key, state in last.items() if state["name"] is not None}


class Customers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    known = present()

    def do_GET(self) -> None:
        folder, _, key = self.path.rpartition("/")
        customer = self.known.get(key) if folder == "/customers" else None
        body = json.dumps(customer or {"error": "there is no such customer"}).encode()
        self.send_response(200 if customer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass  # a line for each question would be in the way


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8321, help="0: any free one")
    server = ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Customers)
    print(f"http://127.0.0.1:{server.server_port}/customers/", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
