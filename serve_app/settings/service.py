"""The settings of the service: `args` in the Serve config."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from serve_app.settings.engines import EngineSettings, TesseractSettings
from serve_app.settings.replicas import ReplicaRange
from serve_app.settings.stores import FolderStoreSettings, StoreSettings
from serve_app.settings.strict import Strict


class Limits(Strict):
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
        5,
        gt=0,
        le=10,
        description="Interval between health checks of a recognizer replica, which also set its metrics, in seconds",
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


class JobSettings(Strict):
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


class RasterSettings(Strict):
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
        if isinstance(replicas, ReplicaRange) and replicas.max is None:
            raise ValueError("the rasterizer needs a 'max'")
        return replicas


class Settings(Strict):
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
    spool_dir: str = Field(
        "spool",
        description="Folder on each node for results that wait because the store takes no writes, relative to the directory in which the service was started. It should survive a restart of the node",
    )
    spool_mb: float = Field(
        1000,
        ge=0,
        description="Maximum size of the results that wait on a node, in MB (10^6 bytes). Beyond it, responses come without being stored. 0: none wait",
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
    log_level: Literal["info", "debug"] = Field(
        "info",
        description="`debug` also logs each page of a job, probes, and requests that only look",
    )

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
