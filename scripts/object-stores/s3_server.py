"""Test equipment: moto's S3 server, made fit for the tests of object stores.

moto compares (If-None-Match, If-Match) but not atomically, holds everything in memory and checks no presigned URL. Here requests are
served one after the other, so that each is atomic; a presigned URL is held to its signature and its time; and what a test asks for can
be taken away, to be like the servers that lack it:

    s3_server.py --port PORT [--bucket NAME]…

A bucket whose name ends with "-unconditional" ignores If-Match on DELETE, as many self-hosted servers do.
"""

import argparse
import datetime
import hashlib
import hmac
import re
import threading
import urllib.parse

import waitress
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends

ACCESS_KEY_ID = "test"
SECRET_ACCESS_KEY = "secret-of-the-tests"  # noqa: S105 (known to everybody, for nothing but tests)
UNCONDITIONAL = "-unconditional"
ACCOUNT = "123456789012"


class Refused(Exception):
    """Why a presigned URL is not accepted."""


def quoted(text):
    return urllib.parse.quote(text, safe="-_.~")


def check_presigned(environ, now):
    """Holds a presigned URL to AWS Signature Version 4 (query parameters)."""
    pairs = urllib.parse.parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    query = dict(pairs)
    signed_at = datetime.datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    if now > signed_at + datetime.timedelta(seconds=int(query["X-Amz-Expires"])):
        raise Refused("Request has expired")
    key_id, day, region, service, _ = query["X-Amz-Credential"].split("/")
    if key_id != ACCESS_KEY_ID:
        raise Refused("The access key is not known")
    names = query["X-Amz-SignedHeaders"].split(";")
    headers = "".join(f"{name}:{environ.get('HTTP_' + name.upper().replace('-', '_'), '').strip()}\n" for name in names)
    rest = sorted((quoted(name), quoted(value)) for name, value in pairs if name != "X-Amz-Signature")
    canonical = "\n".join(
        [
            environ["REQUEST_METHOD"],
            urllib.parse.quote(environ["PATH_INFO"].encode("latin-1"), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in rest),
            headers,
            query["X-Amz-SignedHeaders"],
            "UNSIGNED-PAYLOAD",
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{day}/{region}/{service}/aws4_request\n{digest}"
    key = f"AWS4{SECRET_ACCESS_KEY}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    if not hmac.compare_digest(hmac.digest(key, to_sign.encode(), "sha256").hex(), query["X-Amz-Signature"]):
        raise Refused("The signature does not match")


class OneAfterTheOther:
    """Serves requests of which each is atomic."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if "X-Amz-Signature=" in environ.get("QUERY_STRING", ""):
            try:
                check_presigned(environ, datetime.datetime.now(datetime.timezone.utc))
            except (Refused, KeyError, ValueError) as fault:
                start_response("403 Forbidden", [("Content-Type", "text/plain")])
                return [f"AccessDenied: {fault}".encode()]
        bucket = re.match(r"/([^/]+)/", environ["PATH_INFO"])
        if environ["REQUEST_METHOD"] == "DELETE" and bucket and bucket[1].endswith(UNCONDITIONAL):
            environ.pop("HTTP_IF_MATCH", None)
        # waitress has received the whole body by now, so nobody waits here for a client.
        with self.lock:
            return list(self.application(environ, start_response))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bucket", action="append", default=[])
    arguments = parser.parse_args()
    for bucket in arguments.bucket:
        s3_backends[ACCOUNT]["aws"].create_bucket(bucket, "us-east-1")
    application = OneAfterTheOther(create_backend_app("s3"))
    waitress.serve(application, host="127.0.0.1", port=arguments.port, threads=16, ident=None, max_request_body_size=1 << 34)


if __name__ == "__main__":
    main()
