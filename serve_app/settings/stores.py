"""The settings of each kind of store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.settings.strict import Strict


class FolderStoreSettings(Strict):
    kind: Literal["folder"] = Field("folder", description="Where results are stored: `folder` or `s3`")
    path: str = Field(
        "output", description="Folder for results, relative to the directory in which the service was started"
    )
    prefix: str = Field("", description="Prefix of every key in the store, such as `ocr`")
    keep_source: bool = Field(False, description="Also store the source file with the result")


class S3StoreSettings(Strict):
    kind: Literal["s3"] = Field("s3", description="Where results are stored: `folder` or `s3`")
    bucket: str = Field(description="Name of an existing bucket")
    prefix: str = Field("", description="Prefix of every key in the store, such as `ocr`")
    keep_source: bool = Field(False, description="Also store the source file with the result")
    endpoint_url: str | None = Field(
        None, description="Endpoint of an S3-compatible service. Unset: boto3's default (AWS, or AWS_ENDPOINT_URL_S3)"
    )
    public_endpoint_url: str | None = Field(
        None,
        description="Endpoint to use in links, for clients that cannot reach `endpoint_url`. Unset: `endpoint_url`",
    )
    region: str | None = Field(None, description="Region. Unset: boto3's default")
    addressing_style: Literal["path", "virtual", "auto"] = Field(
        "auto",
        description="Where URLs have the bucket's name: in the path (`path`) or in the host name (`virtual`); `auto` lets boto3 choose",
    )
    checksums: Literal["when_required", "when_supported"] = Field(
        "when_required",
        description="boto3's checksum mode: `when_required`, or `when_supported`, which older gateways refuse",
    )
    server_side_encryption: Literal["AES256", "aws:kms"] | None = Field(
        None, description="Server-side encryption, if the bucket's service supports it: `AES256` or `aws:kms`"
    )
    threads: int = Field(
        8,
        ge=1,
        le=64,
        description="Connections and threads of each ingress and Jobs replica: as many for small objects, and as many for files",
    )


StoreSettings = Annotated[FolderStoreSettings | S3StoreSettings, Field(discriminator="kind")]
