"""The store in an S3 bucket. This module imports boto3, so `open_store` imports it only when needed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, BinaryIO, cast

import boto3.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from serve_app.errors import TooLarge
from serve_app.runtime.mapped_file import FileContent, map_file
from serve_app.settings import S3StoreSettings, Secrets
from serve_app.storage.store import StoreUnavailable, ThreadedStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef


@dataclass(frozen=True)
class Patience:
    """Time limits of a call. With these defaults, a store that hangs blocks a call for 30 to 35 s, and a download for twice as long.

    A put takes longest, since boto3 waits a second for "100 Continue" in each attempt. boto3's own defaults would
    block a call for five minutes.
    """

    connect_s: float = 2
    read_s: float = 10
    attempts: int = 3


PATIENCE = Patience()


# The store has its own threads. Two attempts, each with those of Patience: one for a connection that breaks in the middle.
ONE_THREAD = TransferConfig(use_threads=False, num_download_attempts=2)
DOWNLOAD_FAILED = RetriesExceededError, S3DownloadFailedError
"""A download that broke off, and one of an object that was replaced meanwhile. botocore does not know these errors."""

_MISSING = ("404", "NoSuchKey")


class S3Store(ThreadedStore):
    """Keys are objects of an existing bucket.

    Credentials come from `secrets`, else from where boto3 finds them: environment, profile, web identity, instance
    role. They need s3:PutObject, s3:GetObject and s3:DeleteObject, and s3:ListBucket for listing, for `check`, and to
    tell a missing key from a forbidden one. Raises ValueError for settings that boto3 refuses.
    """

    def __init__(self, settings: S3StoreSettings, secrets: Secrets, *, patience: Patience = PATIENCE) -> None:
        super().__init__(settings.prefix, settings.threads)
        self._bucket = settings.bucket
        self._encryption = settings.server_side_encryption
        try:
            self._client = self._linking = _client(settings, secrets, patience, settings.endpoint_url)
            if settings.public_endpoint_url is not None:
                self._linking = _client(settings, secrets, patience, settings.public_endpoint_url)
        except BotoCoreError as error:
            raise ValueError(f"S3 settings: {error}") from error

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self.full_key(key)}"

    def link(self, key: str, seconds: int) -> str:
        """Sign a link with the store's credentials. If these are temporary, the link expires with them at the latest."""
        with self._unavailable(f"cannot sign a link to {key}"):
            return self._linking.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self.full_key(key)}, ExpiresIn=seconds
            )

    async def source(self, url: str, *, max_bytes: int) -> FileContent:
        """Download s3://bucket/key from any bucket that the credentials can read.

        Raises KeyError if it does not exist or is forbidden, TooLarge and StoreUnavailable.
        """
        return await self._in_thread(self._source, url, max_bytes, executor=self._files)

    def _source(self, url: str, max_bytes: int) -> FileContent:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        try:
            size = self._client.head_object(Bucket=bucket, Key=key)["ContentLength"]
            if size > max_bytes:
                raise TooLarge(f"The document is over the limit of {max_bytes / 1e6:g} MB.")
            with tempfile.TemporaryFile() as file:
                self._client.download_fileobj(bucket, key, file, Config=ONE_THREAD)
                return map_file(file) if size else b""
        except ClientError as error:
            if error.response["Error"]["Code"] in (*_MISSING, "NoSuchBucket", "403", "AccessDenied"):
                raise KeyError(url) from None
            raise StoreUnavailable(f"cannot read {url}: {error}") from error
        except (BotoCoreError, *DOWNLOAD_FAILED) as error:
            raise StoreUnavailable(f"cannot read {url}: {error}") from error

    def clock(self) -> datetime | None:
        """Return the time of the store, to a second; None if it does not tell. Blocks. Raises StoreUnavailable."""
        with self._unavailable("cannot ask for the time"):
            try:
                headers = self._client.head_bucket(Bucket=self._bucket)["ResponseMetadata"]["HTTPHeaders"]
            except ClientError as error:  # a refusal has the time too
                headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        try:
            return parsedate_to_datetime(headers["date"])
        except (LookupError, ValueError):
            return None

    async def close(self) -> None:
        await super().close()
        for client in {self._client, self._linking}:
            await asyncio.to_thread(client.close)

    def _put(self, key: str, data: bytes | BinaryIO, content_type: str) -> None:
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": key,
            "Body": data,
            "ContentType": content_type,
        }
        if self._encryption is not None:
            request["ServerSideEncryption"] = self._encryption
        with self._unavailable(f"cannot write {key}"):
            self._client.put_object(**request)

    def _get(self, key: str) -> bytes:
        with self._unavailable(f"cannot read {key}"):
            try:
                response = self._client.get_object(Bucket=self._bucket, Key=key)
            except self._client.exceptions.NoSuchKey:
                raise KeyError(key) from None
            with response["Body"] as body:
                return body.read()

    def _open(self, key: str) -> BinaryIO:
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
        try:
            with self._unavailable(f"cannot read {key}"):
                self._client.download_fileobj(self._bucket, key, file, Config=ONE_THREAD)
            file.seek(0)
        except StoreUnavailable as error:
            file.close()
            if isinstance(error.__cause__, ClientError) and error.__cause__.response["Error"]["Code"] in _MISSING:
                raise KeyError(key) from None
            raise
        except BaseException:
            file.close()
            raise
        return file

    def _keys_below(self, folder: str) -> list[str]:
        with self._unavailable(f"cannot list {folder}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{folder}/")
            return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def _delete(self, key: str) -> None:
        with self._unavailable(f"cannot delete {key}"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _remove_left_behind(self, folder: str) -> None:
        pass  # unfinished uploads cannot be read, and the bucket's lifecycle rules delete them

    def _check(self) -> None:
        with self._unavailable("cannot use the bucket"):
            self._client.head_bucket(Bucket=self._bucket)

    @contextmanager
    def _unavailable(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, *DOWNLOAD_FAILED) as error:
            raise StoreUnavailable(f"s3://{self._bucket}: {problem}: {error}") from error


def _client(settings: S3StoreSettings, secrets: Secrets, patience: Patience, endpoint_url: str | None) -> S3Client:
    # Threads may share a client but not a session, so each client gets a session of its own.
    access_key, secret_key = secrets.s3_access_key_id, secrets.s3_secret_access_key
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=settings.region,
        aws_access_key_id=access_key.get_secret_value() if access_key else None,
        aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
        config=Config(
            connect_timeout=patience.connect_s,
            read_timeout=patience.read_s,
            max_pool_connections=2 * settings.threads,
            retries={"mode": "standard", "total_max_attempts": patience.attempts},
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing_style},
            request_checksum_calculation=settings.checksums,
            response_checksum_validation=settings.checksums,
        ),
    )
