"""The load over HTTPS (wrk), and the peer of the node (nginx)."""

import json
import os
import pathlib
import subprocess
import time

from .installation import environment
from .machine import Failure, free_port, run

LUA = pathlib.Path(__file__).resolve().parents[1] / "wrk"
NGINX = "/usr/sbin/nginx"
NGINX_CONFIGURATION = """
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_requests 100000000;
    keepalive_timeout 60s;
    default_type application/json;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        root {root};
    }}
}}
"""


def load(script, url, connections, seconds, settings):
    """Sends requests on kept-alive connections as fast as they are answered; every one must be."""
    variables = {f"BENCH_{name}": value for name, value in settings.items()}
    command = ["wrk", "--threads=2", f"--connections={connections}", f"--duration={seconds}s", f"--script={LUA}/{script}"]
    output = run([*command, url], env=environment() | variables)
    result = json.loads(output.strip().splitlines()[-1])
    if result["refused"] or result["broken"] or not result["requests"]:
        raise Failure(f"{url}: {result}")
    result["per_second"] = result["requests"] / result["microseconds"] * 1_000_000
    return result


class Nginx:
    """A static file over TLS, with the certificate that the node has."""

    def __init__(self, directory, certificate, content):
        self.directory = directory / "nginx"
        root = self.directory / "root"
        root.mkdir(parents=True)
        self.directory.chmod(0o755)
        (root / "file.json").write_bytes(content)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}/file.json"
        configuration = self.directory / "nginx.conf"
        text = NGINX_CONFIGURATION.format(
            directory=self.directory, port=self.port, root=root, certificate=certificate[0], key=certificate[1]
        )
        configuration.write_text(text)
        command = [NGINX, "-p", str(self.directory), "-c", str(configuration), "-e", "stderr"]
        self.log = open(self.directory / "log", "wb")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self._wait()

    def _wait(self):
        for _ in range(100):
            if os.path.exists(self.directory / "nginx.pid"):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise Failure(f"nginx does not serve:\n{(self.directory / 'log').read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
