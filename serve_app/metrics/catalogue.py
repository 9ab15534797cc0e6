"""Every metric of the service, by name. docs/metrics.md is written from it (`make metrics`).

Names follow Prometheus: the unit at the end, in seconds or bytes, and `_total` for a counter. A label has few values:
engines, stages and outcomes, codes of errors and warnings, and names of keys, of which a process tells 100 apart.
"""

from __future__ import annotations

from serve_app.metrics.instruments import Counter, Gauge, Histogram, Instrument

PAGE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds, from a page in the cache to the default of `limits.page_s`. Tesseract takes about a second a page, an engine on a GPU a
tenth of that."""

DOCUMENT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0, 3600.0)
"""Seconds, from a small upload to the default of `limits.document_s`."""

# Pages

PAGES = Counter(
    "ocr_pages_total",
    "Pages that ended. `outcome`: `done`, `degraded`, `cached` or `failed`. `reason`: the code of the error of a failed page, or "
    "of the first warning of a degraded one. `engine`: the one that read the page, or that should have; `text-layer` for text "
    "that the PDF has. A page of a job that is tried again counts each time",
    unit="pages",
    labels=("engine", "outcome", "reason"),
)
KEY_PAGES = Counter(
    "ocr_key_pages_total",
    "The same pages by the name of the key; empty for requests without one",
    unit="pages",
    labels=("key",),
)
PAGE_STAGE_SECONDS = Histogram(
    "ocr_page_stage_seconds",
    "Time of a page in each `stage`: `rasterize`, `queue` (the queues of the engine's replica), `analyze` (its batch, as for the "
    "layout), `recognize`, `text_layer`, `cache`",
    unit="seconds",
    labels=("stage", "engine"),
    buckets=PAGE_BUCKETS,
)
PAGES_IN_FLIGHT = Gauge(
    "ocr_pages_in_flight",
    "Pages that each ingress and Jobs replica has sent to an engine. Sum over replicas",
    unit="pages",
    labels=("engine",),
)
PAGES_WAITING = Gauge(
    "ocr_pages_waiting",
    "Pages that wait for their turn in each ingress and Jobs replica, with those of jobs in line. Sum over replicas",
    unit="pages",
    labels=("engine",),
)
CACHE_LOOKUPS = Counter(
    "ocr_cache_lookups_total",
    "Pages looked up in the page cache. `outcome`: `hit` or `miss`",
    unit="pages",
    labels=("outcome",),
)

# Engines

ENGINE_UP = Gauge(
    "ocr_engine_up",
    "1 if pages for the engine can be read, or if its next page starts it; 0 while it loads, has failed to load, or has lost all "
    "replicas. Each ingress and Jobs replica reports what it sees: take the maximum",
    unit="0 or 1",
    labels=("engine",),
)
ENGINE_STATE = Gauge(
    "ocr_engine_state",
    "1 for the `phase` that a replica's engine is in: `not_initialized`, `initializing`, `initialized`, `failed`. Sum over replicas",
    unit="0 or 1",
    labels=("engine", "phase"),
)
ENGINE_LOAD_SECONDS = Gauge(
    "ocr_engine_load_seconds",
    "How long a replica's engine took to load. Take the maximum",
    unit="seconds",
    labels=("engine",),
)
ENGINE_BUSY_SECONDS = Counter(
    "ocr_engine_busy_seconds_total",
    "Time that a replica's engine has worked on pages. Its rate is the share of the time, 0 to 1 for each replica",
    unit="seconds",
    labels=("engine",),
)
RASTERIZER_BUSY_SECONDS = Counter(
    "ocr_rasterizer_busy_seconds_total", "Time that a rasterizer has worked, as for an engine", unit="seconds"
)
BATCH_PAGES = Histogram(
    "ocr_batch_pages",
    "Pages of each batch that an engine gets",
    unit="pages",
    labels=("engine",),
    buckets=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
VLM_SERVER_UP = Gauge(
    "ocr_vlm_server_up",
    "1 if the inference server of an engine takes requests, as each replica sees it. Take the maximum",
    unit="0 or 1",
    labels=("engine",),
)
DECODER_DEATHS = Counter(
    "ocr_decoder_deaths_total",
    "Decoding processes that ended before their time. `reason`: `died` with a document, `timeout`, `killed` by SIGKILL, as for want "
    "of memory, `idle`, or at the `start`",
    unit="processes",
    labels=("reason",),
)
WRITER_DEATHS = Counter(
    "ocr_writer_deaths_total",
    "Processes that write a PDF or DOCX and ended before their time. `reason`: `died`, `timeout` or `killed`",
    unit="processes",
    labels=("output", "reason"),
)

# Documents and requests

DOCUMENT_STAGE_SECONDS = Histogram(
    "ocr_document_stage_seconds",
    "Time of a document in each `stage`: `receive` (its upload), `fetch` (from a URL), `restructure`, `store`",
    unit="seconds",
    labels=("stage",),
    buckets=DOCUMENT_BUCKETS,
)
OUTPUT_SECONDS = Histogram(
    "ocr_output_seconds",
    "Time to write a document in the form `output`, also for the store",
    unit="seconds",
    labels=("output",),
    buckets=DOCUMENT_BUCKETS,
)
FETCHES = Counter(
    "ocr_fetches_total",
    "Documents fetched from a URL. `outcome`: `done` or `failed`; `reason`: the code of the error, such as `url_forbidden`",
    unit="documents",
    labels=("outcome", "reason"),
)
REQUESTS = Counter(
    "ocr_requests_total",
    "HTTP requests, probes too, by the name of their `key` (empty without one), the `status` of the response (`none` if the client left before) "
    "and, in `reason`, the code of the error",
    unit="requests",
    labels=("key", "status", "reason"),
)

# Jobs

JOBS = Gauge(
    "ocr_jobs",
    "Jobs that each Jobs replica has. `state`: `running`, `waiting`, or `unreadable` for a record that is damaged. Sum over replicas",
    unit="jobs",
    labels=("state",),
)
OLDEST_JOB_SECONDS = Gauge(
    "ocr_oldest_job_seconds",
    "Time since the oldest job that has not ended was submitted; 0 without one. Take the maximum over replicas",
    unit="seconds",
)
JOBS_ENDED = Counter(
    "ocr_jobs_ended_total",
    "Jobs that ended. `state`: `done`, `partial`, `failed`, `cancelled`, or `deleted` while active. `reason`: the code of the error",
    unit="jobs",
    labels=("state", "reason"),
)
WEBHOOK_ATTEMPTS = Counter(
    "ocr_webhook_attempts_total",
    "Attempts to deliver a webhook. `answer`: `2xx` to `5xx`, or the code of an error",
    unit="attempts",
    labels=("answer",),
)
WEBHOOKS_ENDED = Counter(
    "ocr_webhooks_ended_total",
    "Webhooks that were `delivered`, or given up as `failed` after a day",
    unit="webhooks",
    labels=("state",),
)

# The store

STORE_UP = Gauge(
    "ocr_store_up",
    "1 if the store takes writes, as each ingress and Jobs replica sees it. Take the minimum",
    unit="0 or 1",
)
SPOOL_RESULTS = Gauge(
    "ocr_spool_results",
    "Results that wait in the spool of the node until the store takes them. Each ingress and Jobs replica reports those of its "
    "node: take the maximum of each `NodeAddress`. Missing if `spool_mb` is 0",
    unit="results",
)
SPOOL_BYTES = Gauge("ocr_spool_bytes", "The bytes of these results, in the same way", unit="bytes")
SPOOL_LIMIT_BYTES = Gauge("ocr_spool_limit_bytes", "How many bytes the spool of a node may hold", unit="bytes")
STORE_ERRORS = Counter(
    "ocr_store_errors_total",
    "Calls of the store that failed because it was not available. `operation`: `put`, `get`, `open`, `keys_below`, `delete`, "
    "`remove_left_behind`, `check`, `source`",
    unit="calls",
    labels=("operation",),
)


def instruments() -> list[Instrument]:
    """Return all metrics, in the order of this module."""
    return [value for value in globals().values() if isinstance(value, Instrument)]
