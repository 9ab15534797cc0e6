"""Every option of the service, with its default, limits and unit. Nothing else reads the environment.

`Settings` comes from `args` in the Serve config (YAML); unknown names are refused, so a typo is an
error at deploy time. Secrets come from the environment only, once, where the graph is built.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

# An engine is never idle while work waits: behind the batch that runs, the next one is already there.
BATCHES_AT_A_REPLICA = 2
# Where all replicas are full, Serve asks them again and again whether they still are, which costs as much
# CPU as the rest of the way of a page; so even an engine of small batches takes this many pages.
LEAST_PAGES_AT_A_REPLICA = 16

# vLLM as it reads documents fastest (PaddleOCR-VL's own guide): no prefix is ever seen twice, and no image.
# It leaves room on the GPU for the layout model.
VLLM_COMMAND = (
    "vllm", "serve", "PaddlePaddle/PaddleOCR-VL-1.6", "--served-model-name", "PaddleOCR-VL-1.6-0.9B",
    "--trust-remote-code", "--host", "127.0.0.1", "--port", "{port}", "--gpu-memory-utilization", "0.7",
    "--max-num-batched-tokens", "16384", "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """What is over a limit gets a clear error at once; what is accepted is finished."""

    body_mb: float = Field(
        50, gt=0, le=2000, description="Largest request body, and largest document behind a URL, in MB (10^6 bytes)"
    )
    image_megapixels: float = Field(
        100,
        gt=0,
        le=1000,
        description="Largest page, in megapixels: larger images are refused by their headers, PDF pages drawn smaller",
    )
    max_pages: int = Field(1000, ge=1, description="Most pages of one document that are read; a request may set less")
    decode_s: float = Field(30, gt=0, description="Longest decoding of one page, in seconds")
    fetch_s: float = Field(20, gt=0, description="Longest fetch of an image_url, redirects included, in seconds")
    stall_s: float = Field(20, gt=0, description="Longest pause within a request body, in seconds")
    engine_wait_s: float = Field(
        60, gt=0, description="How long a request waits for an engine that is loading, in seconds"
    )
    page_s: float = Field(120, gt=0, description="Longest recognition of one page, in seconds")
    request_s: float = Field(300, gt=0, description="Longest request of one page, and longest upload, in seconds")
    document_s: float = Field(
        3600,
        gt=0,
        description="Longest work on a document of several pages, in seconds; the pages done by then are answered",
    )
    health_check_s: float = Field(
        5, gt=0, description="How often a recognizer replica is asked whether its engine still works, in seconds"
    )
    queue: int = Field(64, ge=1, description="Pages that wait or are worked on, for each ingress replica; more get 503")
    pages_in_flight: int = Field(
        16,
        ge=1,
        description="Pages of one document that are worked on at once, as far as half of `queue` is not in use",
    )
    requests: int = Field(128, ge=1, description="OCR requests that an ingress replica holds at once; more get 503")


class JobSettings(_Strict):
    body_mb: float = Field(
        500,
        gt=0,
        le=5000,
        description="Largest document of a job that is sent as a form, in MB (10^6 bytes); in JSON, `limits.body_mb`",
    )
    s3_sources: tuple[Annotated[str, Field(pattern="^s3://[^/]+/(.+/)?$")], ...] = Field(
        (),
        description="Prefixes (s3://bucket/folder/) that jobs may read documents from, with the keys of the store, which is S3 too",
    )
    in_flight: int = Field(
        4,
        ge=1,
        description="Jobs that are worked on at once; up to as many again where a key has no interactive one among them",
    )
    waiting: int = Field(10_000, ge=1, description="Jobs of all keys that wait or are worked on; more get 503")
    job_s: float = Field(86_400, gt=0, description="Longest work on a job, in seconds; after a restart it counts anew")
    keep_s: float = Field(
        604_800, gt=0, description="How long a job and its results are kept after its end, in seconds"
    )


class RasterSettings(_Strict):
    replicas: int = Field(1, ge=1, description="Rasterizer replicas")
    default_dpi: int = Field(
        200, ge=50, le=1200, description="Dots per inch: to draw PDF pages at, and of an image that does not say"
    )


class _Engine(_Strict):
    replicas: int | None = Field(
        None, ge=1, description="Recognizer replicas; unset: as many as Ray has CPUs, or GPUs, for"
    )
    load: Literal["eager", "lazy"] = Field("eager", description="Load at start in the background, or on first use")
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves for a replica")
    nice: int = Field(
        10, ge=0, le=19, description="How far the engine's threads step back behind the rest of the service"
    )
    memory_mb: float | None = Field(
        None,
        gt=0,
        description="Own memory of a replica (not what it shares, such as Ray's object store), in MB, over which it is replaced",
    )
    fallback: str | None = Field(
        None, description="Name of another configured engine that reads the pages while this one cannot"
    )

    @property
    def gpus(self) -> float:
        """GPUs that Ray reserves for a replica."""
        return 0

    @property
    def pages_at_a_replica(self) -> int:
        """Pages that a replica holds at once: in its queue, and at work."""
        return LEAST_PAGES_AT_A_REPLICA

    @property
    def warm_up_s(self) -> float:
        """How long a replica may load its engine before it counts as started, ready or not."""
        return 20


class TesseractSettings(_Engine):
    """Tesseract, the embedded CPU engine."""

    name: Literal["tesseract"] = Field("tesseract", description="The engine's name in requests and answers")
    languages: tuple[str, ...] = Field(
        ("rus", "eng"), min_length=1, description="Languages, in order of weight; a request may pick among them"
    )
    tessdata: str | None = Field(None, description="Folder of language data; unset: the usual system folders")

    @property
    def max_batch(self) -> int:
        return 1  # one thread: a batch gains nothing, and its first page would wait for its last


class DummySettings(_Engine):
    """An engine without a model: tests and benchmarks of everything around it."""

    name: Literal["dummy"] = Field("dummy", description="The engine's name in requests and answers")
    num_cpus: float = Field(0, ge=0, description="CPUs that Ray reserves for a replica")
    text: str = Field("dummy", description="What it reads on every page")
    load_s: float = Field(0, ge=0, description="Seconds that loading takes")
    load_error: str | None = Field(None, description="Loading fails with this reason")
    batch_s: float = Field(0, ge=0, description="Seconds that a batch costs")
    page_s: float = Field(0, ge=0, description="Seconds that a page of a batch costs")
    max_batch: int = Field(8, ge=1, description="Largest batch")
    leak_mb: float = Field(0, ge=0, description="Memory that a page costs for ever, in MB")

    @property
    def pages_at_a_replica(self) -> int:
        return max(BATCHES_AT_A_REPLICA * self.max_batch, LEAST_PAGES_AT_A_REPLICA)


class NativeVlmSettings(_Strict):
    backend: Literal["native"] = Field("native", description="Where the VLM runs: `native` is in the replica")
    model_dir: str | None = Field(None, description="Folder of the VLM; unset: Paddle's cache")


class VlmServerLaunchSettings(_Strict):
    """A server that the replica starts, watches and ends as its child."""

    command: tuple[str, ...] = Field(
        VLLM_COMMAND, min_length=1, description="Command and arguments; `{port}` is a free port of the loopback address"
    )
    log_file: str = Field("temp/vlm-server.log", description="Where the server's output goes")


class VlmServerSettings(_Strict):
    backend: Literal["vllm-server", "sglang-server", "fastdeploy-server", "llama-cpp-server"] = Field(
        description="Where the VLM runs: an OpenAI-compatible inference server of this kind"
    )
    url: str | None = Field(None, pattern="^https?://", description="Its address up to `/v1`; unset with `launch`")
    model: str | None = Field(None, description="The model's name there; unset: the first one it lists")
    concurrency: int = Field(200, ge=1, description="Blocks in flight at the server, shared by the replicas")
    pages_at_once: int = Field(16, ge=1, description="Pages whose blocks a replica has in flight")
    connect_s: float = Field(3, gt=0, description="Longest wait for a connection, and for an answer to a probe, in s")
    launch: VlmServerLaunchSettings | None = Field(
        None, description="Start the server as a child of the replica; unset: it is there, or will be"
    )

    @model_validator(mode="after")
    def _reachable(self) -> VlmServerSettings:
        if (self.url is None) == (self.launch is None):
            raise ValueError("set one of 'url' and 'launch'")
        return self


class PaddleOcrVlSettings(_Engine):
    """PaddleOCR-VL, the production engine."""

    name: Literal["paddleocr-vl"] = Field("paddleocr-vl", description="The engine's name in requests and answers")
    pipeline_version: Literal["v1", "v1.5", "v1.6"] = Field("v1.6", description="Version of the pipeline")
    device: Literal["cpu", "gpu"] = Field("gpu", description="Where the models in the replica run")
    num_gpus: float | None = Field(
        None, ge=0, description="GPUs that Ray reserves for a replica, or the part of one; unset: 1 with `device: gpu`"
    )
    vlm: Annotated[NativeVlmSettings | VlmServerSettings, Field(discriminator="backend")] = Field(
        NativeVlmSettings(), description="The vision-language model"
    )
    layout_model_dir: str | None = Field(None, description="Folder of the layout model; unset: Paddle's cache")
    doc_preprocessor: bool = Field(
        False, description="Load the models that turn pages upright and flatten them, for requests that ask for it"
    )
    orientation_model_dir: str | None = Field(
        None, description="Folder of the orientation model; unset: Paddle's cache"
    )
    unwarping_model_dir: str | None = Field(None, description="Folder of the unwarping model; unset: Paddle's cache")
    paddlex_config: str | None = Field(
        None, description="A PaddleX pipeline file (YAML), for what has no option here; the options here win"
    )
    download: bool = Field(True, description="Fetch models that are missing from Paddle's cache when the engine loads")
    layout_batch: int = Field(8, ge=1, le=64, description="Most pages in one run of the layout model")
    max_new_tokens: int = Field(4096, ge=1, description="Most tokens of one block")
    page_tokens: int = Field(32_768, ge=1, description="Most tokens of one page; what there is by then is answered")
    gpu_memory_mb: float | None = Field(
        None, gt=0, description="GPU memory of a replica, in MB, over which it is replaced; unset: no limit"
    )

    @property
    def max_batch(self) -> int:
        return self.layout_batch

    @property
    def warm_up_s(self) -> float:
        return 300

    @property
    def gpus(self) -> float:
        return self.num_gpus if self.num_gpus is not None else float(self.device == "gpu")

    @property
    def pages_at_once(self) -> int:
        """Pages that are read at once: the native VLM reads one after another."""
        return 1 if self.vlm.backend == "native" else self.vlm.pages_at_once

    @property
    def pages_at_a_replica(self) -> int:
        return max(BATCHES_AT_A_REPLICA * self.layout_batch, self.pages_at_once + self.layout_batch)


EngineSettings = Annotated[TesseractSettings | PaddleOcrVlSettings | DummySettings, Field(discriminator="name")]


class FolderStoreSettings(_Strict):
    kind: Literal["folder"] = Field("folder", description="Where results are kept: `folder` or `s3`")
    path: str = Field("output", description="Folder of results, relative to where the service was started")
    prefix: str = Field("", description="Leading part of every key")
    keep_source: bool = Field(False, description="Keep the source file beside the result")


class S3StoreSettings(_Strict):
    kind: Literal["s3"] = Field("s3", description="Where results are kept: `folder` or `s3`")
    bucket: str = Field(description="Bucket, which must exist")
    prefix: str = Field("", description="Leading part of every key")
    keep_source: bool = Field(False, description="Keep the source file beside the result")
    endpoint_url: str | None = Field(
        None, description="Endpoint of an S3-compatible cloud; unset: boto3's own (AWS, AWS_ENDPOINT_URL_S3)"
    )
    public_endpoint_url: str | None = Field(
        None, description="Endpoint in links for clients, where they cannot reach `endpoint_url`; unset: the same"
    )
    region: str | None = Field(None, description="Region; unset: boto3's own")
    addressing_style: Literal["path", "virtual", "auto"] = Field("auto", description="How the bucket stands in a URL")
    checksums: Literal["when_required", "when_supported"] = Field(
        "when_required", description="boto3's checksum mode; older gateways refuse `when_supported`"
    )
    server_side_encryption: Literal["AES256", "aws:kms"] | None = Field(
        None, description="Server-side encryption, where the store has it"
    )
    threads: int = Field(8, ge=1, le=64, description="Connections and threads of an ingress replica")


StoreSettings = Annotated[FolderStoreSettings | S3StoreSettings, Field(discriminator="kind")]


class Settings(_Strict):
    """The whole configuration of one application: `args` of the Serve config."""

    engines: tuple[EngineSettings, ...] = Field(
        (TesseractSettings(),), min_length=1, description="Engines; the first is the default"
    )
    store: StoreSettings = Field(FolderStoreSettings(), description="Where results are kept")
    limits: Limits = Limits()
    jobs: JobSettings = JobSettings()
    raster: RasterSettings = RasterSettings()
    ingress_replicas: int = Field(1, ge=1, description="Ingress replicas; 2 or more in production")
    temp_dir: str = Field(
        "temp",
        description="Folder for uploads, open documents and outputs being made, on each node; relative to where the service was started",
    )
    docs_without_key: bool = Field(True, description="Serve /docs, /redoc and /openapi.json without a key")
    open_surfaces: tuple[Literal["paddlex"], ...] = Field(
        (),
        description="APIs that are served without a key, on a private network: `paddlex`; OCR_OPEN_SURFACES in the environment wins",
    )
    paddlex_images: Literal["inline", "urls"] = Field(
        "inline",
        description="Pictures in answers to clients of PaddleX: `inline` as base64, or `urls` of the store, which need no key",
    )
    link_s: int = Field(
        86_400, gt=0, le=604_800, description="How long the URL of a stored file works, in seconds; S3 allows a week"
    )
    public_url: str | None = Field(
        None,
        pattern="^https?://[^?#]+$",
        description="Address of the service as clients see it; unset: the one they sent; OCR_PUBLIC_URL in the environment wins",
    )
    allowed_private_networks: tuple[str, ...] = Field(
        (), description="Networks (CIDR) that image_url and webhooks may reach although they are not public"
    )
    cache_days: int = Field(
        0,
        ge=0,
        le=31,
        description="Days (UTC), the first one included, for which pages are kept to be found again when the same file is sent with the same API key and options; 0: none",
    )
    api_key_file: str = Field(
        "~/.config/paddleocr-vl-serve/api-key",
        description="Where the key made at the first start is kept when OCR_API_KEYS is not set",
    )
    log_format: Literal["text", "json"] = Field("text", description="Form of log lines")

    @model_validator(mode="after")
    def _s3_sources(self) -> Settings:
        if self.jobs.s3_sources and self.store.kind != "s3":
            raise ValueError("jobs.s3_sources needs a store of kind s3, whose keys it uses")
        return self

    @field_validator("allowed_private_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)  # ValueError: not a network, or host bits set
        return networks

    @field_validator("engines")
    @classmethod
    def _distinct(cls, engines: tuple[EngineSettings, ...]) -> tuple[EngineSettings, ...]:
        names = [engine.name for engine in engines]
        if len(set(names)) != len(names):
            raise ValueError("each engine may be configured once")
        for engine in engines:
            if engine.fallback is not None and engine.fallback not in set(names) - {engine.name}:
                raise ValueError(f"the fallback of {engine.name} is not another configured engine")
        return engines


def with_environment(settings: Settings) -> Settings:
    """The settings, with what the environment of whoever builds the graph says of them. Raises ValidationError."""
    said: dict[str, Any] = {}
    if surfaces := os.environ.get("OCR_OPEN_SURFACES"):
        said["open_surfaces"] = tuple(name for name in re.split(r"[\s,]+", surfaces) if name)
    if public_url := os.environ.get("OCR_PUBLIC_URL"):
        said["public_url"] = public_url
    return Settings.model_validate({**settings.model_dump(), **said})


class Secrets(_Strict):
    """What must not stand in a config file, from the environment of whoever builds the graph."""

    api_keys: SecretStr | None = Field(
        None, description="API keys, comma-separated, each `name=key` or `key`; unset: a key is made at the first start"
    )
    s3_access_key_id: SecretStr | None = Field(
        None, description="Key id of the store; unset: boto3's own chain (environment, profile, instance role)"
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, description="Secret key of the store; unset: boto3's own chain"
    )

    webhook_secret: SecretStr | None = Field(
        None, description="Secret that signs webhooks: `whsec_` and base64, or any text; unset: webhooks are refused"
    )
    vlm_api_key: SecretStr | None = Field(None, description="Key of the inference server")

    @model_validator(mode="after")
    def _pairs(self) -> Secrets:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("set both of OCR_S3_ACCESS_KEY_ID and OCR_S3_SECRET_ACCESS_KEY, or neither")
        return self

    @classmethod
    def from_environment(cls) -> Secrets:
        values = {name: os.environ.get(f"OCR_{name.upper()}") for name in cls.model_fields}
        return cls(**{name: SecretStr(value) for name, value in values.items() if value})


def resolve(path: str) -> Path:
    """A configured path as an absolute one: `~` expanded, relative ones from the working folder."""
    return Path(path).expanduser().resolve()
