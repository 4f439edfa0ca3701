"""Tells its callers who it saw calling: `http ADDRESS PORT` (GET /N: N bytes more) or `udp ADDRESS PORT`."""

from __future__ import annotations

import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Http(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        size = self.path.strip("/")
        body = self.client_address[0].encode() + b"." * (int(size) if size.isdecimal() else 0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


class Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(self.client_address[0].encode(), self.client_address)


def main(kind: str, address: str, port: str) -> None:
    where = (address, int(port))
    server = ThreadingHTTPServer(where, Http) if kind == "http" else socketserver.UDPServer(where, Udp)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
