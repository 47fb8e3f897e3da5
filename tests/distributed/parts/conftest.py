"""Folders of parts on a disk and on an S3 server of this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwardcache.distributed.parts.folder import PartsFolder
from forwardcache.distributed.parts.opening import open_folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of a bucket on a server in this process, which clients find by the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        import fsspec

        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> PartsFolder:
    """An empty folder, on a disk and in a bucket."""
    if request.param == "disk":
        found = open_folder(str(tmp_path / "out"))
    else:
        found = open_folder(f"{request.getfixturevalue('s3')}/{tmp_path.name}")
    found.prepare()
    return found
