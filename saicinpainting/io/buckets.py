"""Objects in buckets (S3, Google Cloud Storage, Azure, …), read through fsspec as a server would send them."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Mapping

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory")
"""What lies elsewhere: fsspec knows more, files of this machine and other programs among them."""


def is_bucket(place: str) -> bool:
    """Whether this is the address of an object in a bucket."""
    scheme, mark, _ = place.partition("://")
    return bool(mark) and scheme in SCHEMES


def bucket_of(address: str) -> str:
    """`s3://bucket` of `s3://bucket/key`."""
    return "/".join(address.split("/")[:3])


class BucketObject:
    """A request's answer for an object: `status`, `headers` and body as `http.client` has them.

    Args:
        address: of the object.
        headers: of the request; `Range: bytes=N-` and `If-Range` count.

    Raises:
        ValueError: the package for such addresses is missing, or the object is, or it may not be read.
        OSError: something else fails; another try may go well.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        if "::" in address:  # by which fsspec puts file systems into each other, this machine's too
            raise ValueError("expected an address without ::")
        try:
            from fsspec.core import url_to_fs

            file_system, path = url_to_fs(address)
        except ImportError as error:
            scheme = address.partition("://")[0]
            raise ValueError(f"{scheme}:// needs a package ({error}); pip install 'saicinpainting[buckets]'") from error
        try:
            about = file_system.info(path)
            mark = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()
            size = about["size"]
            begin = int(re.sub(r"^bytes=|-$", "", headers.get("Range", "0")))
            if begin >= (size or 0) or headers.get("If-Range", mark) != mark:
                begin = 0
            self._file = file_system.open(path, "rb")
            self._file.seek(begin)
        except FileNotFoundError as error:
            raise ValueError("no such object") from error
        except PermissionError as error:
            raise ValueError(f"it may not be read: {error}") from error
        except Exception as error:  # each store's package has its own
            raise OSError(f"{type(error).__name__}: {error}") from error
        self.headers = {"ETag": mark}
        if size is not None:
            self.headers["Content-Length"] = str(size - begin)
        self.status = http.client.PARTIAL_CONTENT if begin else http.client.OK
        if begin:
            self.headers["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"

    def read1(self, size: int) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        return data

    def close(self) -> None:
        self._file.close()
