"""Every setting of the service, with its default, limits and unit. No other module reads the environment.

`Settings` comes from `args` in the Serve config (YAML); unknown names are refused, so a typo is an
error at deploy time. Secrets come only from the environment, which is read once, when the graph is built.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

# A second batch waits behind the running one, so an engine is never idle while there is work.
BATCHES_AT_A_REPLICA = 2
# However small its batches: a page runs, one waits, and others are being decoded.
LEAST_WINDOW_OF_A_REPLICA = 4
# Callers whose windows a replica has room for. Pages of more callers wait at their callers, where documents do not take turns.
CALLERS_OF_A_REPLICA = 2
# While all replicas are full, Serve keeps probing them, which costs as much CPU as all other work on a page. So even an
# engine with small batches accepts this many pages.
LEAST_PAGES_AT_A_REPLICA = 16

# vLLM options from PaddleOCR-VL's guide: prefixes and images never repeat, so their caches are off. The layout model
# needs the rest of the GPU's memory.
VLLM_COMMAND = (
    "vllm", "serve", "PaddlePaddle/PaddleOCR-VL-1.6", "--served-model-name", "PaddleOCR-VL-1.6-0.9B",
    "--trust-remote-code", "--host", "127.0.0.1", "--port", "{port}", "--gpu-memory-utilization", "0.7",
    "--max-num-batched-tokens", "16384", "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0",
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """A request over a limit is refused at once with a clear error; an accepted request is finished."""

    body_mb: float = Field(
        50,
        gt=0,
        le=2000,
        description="Maximum size of a request body and of a document fetched from a URL, in MB (10^6 bytes)",
    )
    image_megapixels: float = Field(
        100,
        gt=0,
        le=1000,
        description="Maximum page size in megapixels. Larger images are refused; larger PDF pages are rendered at a lower resolution",
    )
    max_pages: int = Field(
        1000, ge=1, description="Maximum pages read from one document; a request may set a lower limit"
    )
    decode_s: float = Field(
        30, gt=0, description="Time limit for decoding one page, in seconds; up to four times that while no CPU is free"
    )
    fetch_s: float = Field(
        20,
        gt=0,
        description="Time limit for fetching an `image_url`, including redirects, in seconds. For jobs, `request_s` applies",
    )
    stall_s: float = Field(20, gt=0, description="Maximum pause while a request body is uploaded, in seconds")
    engine_wait_s: float = Field(
        60, gt=0, description="How long a request waits for an engine that is still loading, in seconds"
    )
    page_s: float = Field(120, gt=0, description="Time limit for recognizing one page, in seconds")
    request_s: float = Field(
        300,
        gt=0,
        description="Time limit for a document of one page, and for the upload of any request except a job, in seconds",
    )
    document_s: float = Field(
        3600,
        gt=0,
        description="Time limit for a document of several pages, and for uploading a job, in seconds. The response has the pages that are done by then",
    )
    health_check_s: float = Field(
        5, gt=0, description="Interval between health checks of a recognizer replica, in seconds"
    )
    queue: int | None = Field(
        None,
        ge=1,
        description="Maximum documents in progress per ingress replica, including those that wait for an engine; beyond it requests get 503. Half as many pages are in progress at once at each engine, and one of each document in any case. Unset: 64, or more if the engines' replicas can take more",
    )
    pages_in_flight: int | None = Field(
        None,
        ge=1,
        description="Maximum pages of one document in progress at once. Unset: as many as the engine's replicas can take, in turns with other documents",
    )
    requests: int = Field(
        128, ge=1, description="Maximum concurrent OCR requests per ingress replica; beyond it requests get 503"
    )


class JobSettings(_Strict):
    body_mb: float = Field(
        500,
        gt=0,
        le=5000,
        description="Maximum size of a job's document, uploaded in a form or fetched from a URL, in MB (10^6 bytes). For JSON bodies, `limits.body_mb` applies",
    )
    s3_sources: tuple[Annotated[str, Field(pattern="^s3://[^/]+/(.+/)?$")], ...] = Field(
        (),
        description="Prefixes (`s3://bucket/folder/`) that jobs may read documents from. Needs a store of kind `s3`, whose credentials are used",
    )
    replicas: int = Field(
        1,
        ge=1,
        description="Jobs replicas, which share the jobs. Use 2 or more in production: when one dies, the others take its jobs over within seconds. Set it here, and not as `num_replicas` of the deployment",
    )
    in_flight: int | None = Field(
        None,
        ge=1,
        description="Maximum jobs running at once per Jobs replica. Beyond it, up to twice as many in all, an interactive job starts only if its key has no interactive job running. Unset: 4, or more while the running ones have fewer pages left than the engines' replicas can take",
    )
    waiting: int = Field(
        10_000, ge=1, description="Maximum jobs waiting or running, over all keys; beyond it submissions get 503"
    )
    job_s: float = Field(
        86_400,
        gt=0,
        description="Time limit for a job, in seconds. After a restart of the service, the time counts from zero",
    )
    keep_s: float = Field(
        604_800, gt=0, description="How long a job and its results stay in the store after the job ends, in seconds"
    )


class ReplicaRange(_Strict):
    """A number of replicas that follows the pages waiting and running, between `min` and `max`."""

    min: int = Field(
        1,
        ge=0,
        description="Fewest replicas. 0 (engines only): none while there are no pages; the next page starts one and waits for it",
    )
    max: int = Field(ge=1, description="Most replicas")
    target_wait_s: float = Field(
        2,
        gt=0,
        description="Replicas are added while a page would wait longer than about this, in seconds. A larger value needs fewer replicas",
    )
    upscale_delay_s: float = Field(
        5, ge=0, description="How long more replicas must be needed before they start, in seconds"
    )
    downscale_delay_s: float = Field(
        120, ge=0, description="How long fewer replicas must be enough before some stop, in seconds"
    )

    @model_validator(mode="after")
    def _check_range(self) -> ReplicaRange:
        if self.min > self.max:
            raise ValueError("'min' is greater than 'max'")
        return self


class RasterSettings(_Strict):
    replicas: Annotated[int, Field(ge=1)] | ReplicaRange = Field(
        1, description="Rasterizer replicas: a number, or a range within which they follow the load"
    )
    default_dpi: int = Field(
        200,
        ge=50,
        le=1200,
        description="Resolution at which PDF pages are rendered, in dots per inch. Images that state no resolution are taken to have this one",
    )

    @field_validator("replicas")
    @classmethod
    def _check_replicas(cls, replicas: int | ReplicaRange) -> int | ReplicaRange:
        if isinstance(replicas, ReplicaRange) and replicas.min == 0:
            raise ValueError("the rasterizer needs at least one replica")
        return replicas


class _Engine(_Strict):
    replicas: Annotated[int, Field(ge=1)] | ReplicaRange | None = Field(
        None,
        description="Recognizer replicas: a number, or a range within which they follow the load. Unset: as many as Ray's CPUs or GPUs allow",
    )
    load: Literal["eager", "lazy"] = Field(
        "eager", description="When to load the engine: `eager` at startup, in the background; `lazy` on first use"
    )
    num_cpus: float = Field(1, ge=0, description="CPUs that Ray reserves per replica")
    nice: int = Field(
        10, ge=0, le=19, description="Unix niceness of the engine's threads: the higher, the lower their priority"
    )
    memory_mb: float | None = Field(
        None,
        gt=0,
        description="Private memory of a replica, in MB, above which it is replaced. Shared memory, such as Ray's object store, does not count. Unset: no limit",
    )
    fallback: str | None = Field(
        None,
        description="Name of another configured engine, which reads a page if this one is unavailable or fails on it",
    )

    @property
    def least_replicas(self) -> int:
        """Replicas that must find room at the start."""
        return self.replicas.min if isinstance(self.replicas, ReplicaRange) else self.replicas or 1

    @property
    def gpus(self) -> float:
        """GPUs that Ray reserves per replica."""
        return 0

    @property
    def window_of_a_replica(self) -> int:
        """Pages that one caller has in flight for each replica, so that no replica is idle while there is work."""
        return LEAST_WINDOW_OF_A_REPLICA

    @property
    def pages_at_a_replica(self) -> int:
        """Pages that a replica accepts at once, including queued ones."""
        return max(CALLERS_OF_A_REPLICA * self.window_of_a_replica, LEAST_PAGES_AT_A_REPLICA)

    @property
    def warm_up_s(self) -> float:
        """Seconds after which a replica counts as started although its engine is still loading."""
        return 20


class TesseractSettings(_Engine):
    """Tesseract, the embedded CPU engine."""

    name: Literal["tesseract"] = Field("tesseract", description="The engine's name in requests and responses")
    languages: tuple[str, ...] = Field(
        ("rus", "eng"), min_length=1, description="Languages, most important first; a request may select among them"
    )
    tessdata: str | None = Field(None, description="Folder of language data. Unset: the usual system folders")

    @property
    def max_batch(self) -> int:
        return 1  # one thread gains nothing from a batch, and its first page would wait for its last


class DummySettings(_Engine):
    """An engine without a model, for tests and benchmarks of everything around it."""

    name: Literal["dummy"] = Field("dummy", description="The engine's name in requests and responses")
    num_cpus: float = Field(0, ge=0, description="CPUs that Ray reserves per replica")
    text: str = Field("dummy", description="Text returned for every page")
    load_s: float = Field(0, ge=0, description="Time to load, in seconds")
    load_error: str | None = Field(None, description="Make loading fail with this reason")
    batch_s: float = Field(0, ge=0, description="Time per batch, in seconds")
    page_s: float = Field(0, ge=0, description="Time per page of a batch, in seconds")
    max_batch: int = Field(8, ge=1, description="Maximum batch size, in pages")
    leak_mb: float = Field(0, ge=0, description="Memory leaked per page, in MB")
    num_gpus: float = Field(0, ge=0, description="GPUs that Ray reserves per replica")

    @property
    def gpus(self) -> float:
        return self.num_gpus

    @property
    def window_of_a_replica(self) -> int:
        return max(BATCHES_AT_A_REPLICA * self.max_batch, LEAST_WINDOW_OF_A_REPLICA)


class NativeVlmSettings(_Strict):
    backend: Literal["native"] = Field(
        "native", description="Where the vision-language model (VLM) runs: `native` means in the replica"
    )
    model_dir: str | None = Field(None, description="Folder of the VLM. Unset: Paddle's cache")


class VlmServerLaunchSettings(_Strict):
    """An inference server that the replica starts, monitors and stops as its child process."""

    command: tuple[str, ...] = Field(
        VLLM_COMMAND,
        min_length=1,
        description="Command and arguments. `{port}` is replaced by a free port on the loopback address",
    )
    log_file: str = Field("temp/vlm-server.log", description="File for the server's output")


class VlmServerSettings(_Strict):
    backend: Literal["vllm-server", "sglang-server", "fastdeploy-server", "llama-cpp-server"] = Field(
        description="Kind of the OpenAI-compatible inference server on which the VLM runs: `vllm-server`, `sglang-server`, `fastdeploy-server` or `llama-cpp-server`"
    )
    url: str | None = Field(
        None, pattern="^https?://", description="The server's address, including `/v1`. Leave unset with `launch`"
    )
    model: str | None = Field(
        None, description="The model's name on the server. Unset: the first one that the server lists"
    )
    concurrency: int = Field(
        200, ge=1, description="Maximum blocks (regions of pages) in flight at the server, from all replicas together"
    )
    pages_at_once: int = Field(16, ge=1, description="Maximum pages that a replica reads at once")
    connect_s: float = Field(
        3, gt=0, description="Time limit for connecting, and for the response to a probe, in seconds"
    )
    launch: VlmServerLaunchSettings | None = Field(
        None, description="Start the server as a child process of the replica. Unset: connect to `url`"
    )

    @model_validator(mode="after")
    def _check_address(self) -> VlmServerSettings:
        if (self.url is None) == (self.launch is None):
            raise ValueError("set one of 'url' and 'launch'")
        return self


class PaddleOcrVlSettings(_Engine):
    """PaddleOCR-VL, the production engine."""

    name: Literal["paddleocr-vl"] = Field("paddleocr-vl", description="The engine's name in requests and responses")
    pipeline_version: Literal["v1", "v1.5", "v1.6"] = Field(
        "v1.6", description="Version of the pipeline: `v1`, `v1.5` or `v1.6`"
    )
    device: Literal["cpu", "gpu"] = Field(
        "gpu", description="Device of the models that run in the replica: `cpu` or `gpu`"
    )
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs that Ray reserves per replica; may be a fraction. Unset: 1 with `device: gpu`, else 0",
    )
    vlm: Annotated[NativeVlmSettings | VlmServerSettings, Field(discriminator="backend")] = Field(
        NativeVlmSettings(), description="The vision-language model"
    )
    layout_model_dir: str | None = Field(None, description="Folder of the layout model. Unset: Paddle's cache")
    doc_preprocessor: bool = Field(
        False, description="Load the models that rotate pages upright and flatten them, for requests with these options"
    )
    orientation_model_dir: str | None = Field(
        None, description="Folder of the orientation model. Unset: Paddle's cache"
    )
    unwarping_model_dir: str | None = Field(None, description="Folder of the unwarping model. Unset: Paddle's cache")
    paddlex_config: str | None = Field(
        None,
        description="A PaddleX pipeline file (YAML) for anything that has no setting here. Settings here take precedence",
    )
    download: bool = Field(
        True, description="When the engine loads, download the models that are missing from Paddle's cache"
    )
    layout_batch: int = Field(8, ge=1, le=64, description="Maximum pages per run of the layout model")
    max_new_tokens: int = Field(4096, ge=1, description="Maximum tokens per block")
    page_tokens: int = Field(
        32_768, ge=1, description="Maximum tokens per page. The text generated by then is returned"
    )
    gpu_memory_mb: float | None = Field(
        None, gt=0, description="GPU memory of a replica, in MB, above which it is replaced. Unset: no limit"
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
        """Pages that a replica reads at once. The native VLM reads one page after another."""
        return 1 if self.vlm.backend == "native" else self.vlm.pages_at_once

    @property
    def window_of_a_replica(self) -> int:
        return max(BATCHES_AT_A_REPLICA * self.layout_batch, self.pages_at_once + self.layout_batch)


EngineSettings = Annotated[TesseractSettings | PaddleOcrVlSettings | DummySettings, Field(discriminator="name")]


class FolderStoreSettings(_Strict):
    kind: Literal["folder"] = Field("folder", description="Where results are stored: `folder` or `s3`")
    path: str = Field(
        "output", description="Folder for results, relative to the directory in which the service was started"
    )
    prefix: str = Field("", description="Prefix of every key in the store, such as `ocr`")
    keep_source: bool = Field(False, description="Also store the source file with the result")


class S3StoreSettings(_Strict):
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
    threads: int = Field(8, ge=1, le=64, description="Connections and threads per ingress replica")


StoreSettings = Annotated[FolderStoreSettings | S3StoreSettings, Field(discriminator="kind")]


class Settings(_Strict):
    """The complete configuration of one application: `args` in the Serve config."""

    engines: tuple[EngineSettings, ...] = Field(
        (TesseractSettings(),), min_length=1, description="Engines; the first one is the default"
    )
    store: StoreSettings = Field(FolderStoreSettings(), description="Where results are stored")
    limits: Limits = Limits()
    jobs: JobSettings = JobSettings()
    raster: RasterSettings = RasterSettings()
    ingress_replicas: int = Field(1, ge=1, description="Ingress replicas. Use 2 or more in production")
    cpu_nodes: str | None = Field(
        None,
        min_length=1,
        description="Name of a resource of Ray that nodes for work without a GPU have, such as `cpu_work`. All deployments except engines with a GPU then run on these nodes only. Unset: they may run on any node",
    )
    temp_dir: str = Field(
        "temp",
        description="Folder on each node for uploads, open documents and unfinished outputs, relative to the directory in which the service was started",
    )
    docs_without_key: bool = Field(True, description="Serve /docs, /redoc and /openapi.json without an API key")
    open_surfaces: tuple[Literal["paddlex"], ...] = Field(
        (),
        description="APIs to serve without an API key, for private networks: `paddlex`. OCR_OPEN_SURFACES in the environment takes precedence",
    )
    paddlex_images: Literal["inline", "urls"] = Field(
        "inline",
        description="How responses to PaddleX clients include pictures: `inline` as base64, or as `urls` of stored files, which need no API key",
    )
    link_s: int = Field(
        86_400,
        gt=0,
        le=604_800,
        description="How long the URL of a stored file is valid, in seconds; a week at most, as in S3",
    )
    public_url: str | None = Field(
        None,
        pattern="^https?://[^?#]+$",
        description="The service's address as clients see it. Unset: the address to which they sent the request. OCR_PUBLIC_URL in the environment takes precedence",
    )
    allowed_private_networks: tuple[str, ...] = Field(
        (), description="Private networks (CIDR) that `image_url` and webhooks may connect to"
    )
    cache_days: int = Field(
        0,
        ge=0,
        le=31,
        description="Days (UTC) that recognized pages are cached; the first day counts as one. If the same API key sends the same file again with the same options, its pages come from the cache. 0: no cache",
    )
    api_key_file: str = Field(
        "~/.config/paddleocr-vl-serve/api-key",
        description="File for the API key, which is generated at the first start if OCR_API_KEYS is not set",
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of log lines: `text` or `json`")

    @model_validator(mode="after")
    def _check_s3_sources(self) -> Settings:
        if self.jobs.s3_sources and self.store.kind != "s3":
            raise ValueError("jobs.s3_sources needs a store of kind s3, whose credentials it uses")
        return self

    @field_validator("allowed_private_networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)  # ValueError: not a network, or host bits set
        return networks

    @field_validator("engines")
    @classmethod
    def _check_engines(cls, engines: tuple[EngineSettings, ...]) -> tuple[EngineSettings, ...]:
        names = [engine.name for engine in engines]
        if len(set(names)) != len(names):
            raise ValueError("each engine may be configured once")
        for engine in engines:
            if engine.fallback is not None and engine.fallback not in set(names) - {engine.name}:
                raise ValueError(f"the fallback of {engine.name} is not another configured engine")
        return engines


def with_environment(settings: Settings) -> Settings:
    """Replace the settings that the environment overrides: call it where the graph is built. Raises ValidationError."""
    overrides: dict[str, Any] = {}
    if surfaces := os.environ.get("OCR_OPEN_SURFACES"):
        overrides["open_surfaces"] = tuple(name for name in re.split(r"[\s,]+", surfaces) if name)
    if public_url := os.environ.get("OCR_PUBLIC_URL"):
        overrides["public_url"] = public_url
    return Settings.model_validate({**settings.model_dump(), **overrides})


class Secrets(_Strict):
    """Values that must not be in a config file. They come from the environment of the process that builds the graph."""

    api_keys: SecretStr | None = Field(
        None,
        description="API keys, comma-separated, each `name=key` or `key`. Unset: a key is generated at the first start",
    )
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key id for the store. Unset: boto3's default chain (environment, profile, instance role)",
    )
    s3_secret_access_key: SecretStr | None = Field(
        None, description="Secret access key for the store. Unset: boto3's default chain"
    )

    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret for signing webhooks: `whsec_` followed by base64, or any text. Unset: webhooks are refused",
    )
    vlm_api_key: SecretStr | None = Field(None, description="API key for the inference server")

    @model_validator(mode="after")
    def _check_s3_keys(self) -> Secrets:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("set both of OCR_S3_ACCESS_KEY_ID and OCR_S3_SECRET_ACCESS_KEY, or neither")
        return self

    @classmethod
    def from_environment(cls) -> Secrets:
        values = {name: os.environ.get(f"OCR_{name.upper()}") for name in cls.model_fields}
        return cls(**{name: SecretStr(value) for name, value in values.items() if value})


def resolve(path: str) -> Path:
    """Make a configured path absolute: expand `~`, and resolve relative paths from the working directory."""
    return Path(path).expanduser().resolve()
