"""The settings of each engine, and the numbers of pages and of resources that follow from them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve_app.settings.replicas import ReplicaRange
from serve_app.settings.strict import Strict

# A second batch waits behind the running one, so an engine is never idle while there is work.
BATCHES_AT_A_REPLICA = 2
# However small its batches: a page runs, one waits, and others are being decoded. Two of pages that take long: the more wait at
# a replica, the more are left over at some replicas when the others have nothing to do any more.
LEAST_WINDOW_OF_A_REPLICA = 4
LEAST_WINDOW_OF_SLOW_PAGES = 2
# Seconds from a free place in a window to a page at the replica, where the decoders have work too.
LEAD_S = 1.0
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
    "--disable-uvicorn-access-log",
)  # fmt: skip


class _Engine(Strict):
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

    def window_of_a_replica(self, page_s: float = 0.0) -> int:
        """Pages that one caller has in flight for each replica, so that no replica is idle while there is work.

        `page_s`: seconds that a page takes a replica; 0 while unknown.
        """
        if page_s == 0.0:
            return LEAST_WINDOW_OF_A_REPLICA
        return min(LEAST_WINDOW_OF_A_REPLICA, max(LEAST_WINDOW_OF_SLOW_PAGES, 1 + math.ceil(LEAD_S / page_s)))

    @property
    def pages_at_a_replica(self) -> int:
        """Pages that a replica accepts at once, including queued ones."""
        return max(CALLERS_OF_A_REPLICA * self.window_of_a_replica(), LEAST_PAGES_AT_A_REPLICA)

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

    def window_of_a_replica(self, page_s: float = 0.0) -> int:
        return max(BATCHES_AT_A_REPLICA * self.max_batch, super().window_of_a_replica(page_s))


class NativeVlmSettings(Strict):
    backend: Literal["native"] = Field(
        "native", description="Where the vision-language model (VLM) runs: `native` means in the replica"
    )
    model_dir: str | None = Field(None, description="Folder of the VLM. Unset: Paddle's cache")


class VlmServerLaunchSettings(Strict):
    """An inference server that the replica starts, monitors and stops as its child process."""

    command: tuple[str, ...] = Field(
        VLLM_COMMAND,
        min_length=1,
        description="Command and arguments. `{port}` is replaced by a free port on the loopback address",
    )
    log_file: str = Field("temp/vlm-server.log", description="File for the server's output")


class VlmServerSettings(Strict):
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
        200,
        ge=1,
        description="Maximum blocks (regions of pages) in flight at the server, from all replicas together. Each replica that runs has an equal part",
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

    def window_of_a_replica(self, page_s: float = 0.0) -> int:
        return max(BATCHES_AT_A_REPLICA * self.layout_batch, self.pages_at_once + self.layout_batch)


EngineSettings = Annotated[TesseractSettings | PaddleOcrVlSettings | DummySettings, Field(discriminator="name")]
