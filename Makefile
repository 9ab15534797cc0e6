# `make` alone lists the targets that have a line with ##.
PYTHON ?= python3
PORT ?=
CONFIG ?= configs/local.yaml
VENV := .venv
CLIENTS := .clients
BIN := $(VENV)/bin
LANGUAGES := eng rus osd
FONTS := fonts-liberation fonts-dejavu-core fonts-crosextra-carlito fonts-crosextra-caladea
DURATIONS := build/test-durations
# One worker more than there are cores: a test that waits leaves its core to another.
WORKERS := $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))

# Images of CI may forbid bytecode. Each process would then compile the service, and each worker of pytest the tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve install paddleocr-vl test check lint types unit docs configuration metrics dashboards openapi pictures samples font lock clean tessdata fonts poppler node kubectl systemd prometheus redis

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/serve.installed tessdata fonts  ## run the service until Ctrl-C; PORT=9000 and CONFIG=configs/gpu.yaml are examples
	@exec $(BIN)/python -m serve_app serve $(CONFIG) $(if $(PORT),--port $(PORT))

install: $(VENV)/serve.installed tessdata fonts  ## install what `make serve` needs, and start nothing

paddleocr-vl: $(VENV)/paddleocr-vl.installed  ## PaddleOCR-VL beside Tesseract, with Paddle for CPUs

test: $(VENV)/dev.installed $(CLIENTS)/installed tessdata fonts poppler kubectl systemd prometheus redis  ## all tests; those with a Ray one after another
	@mkdir -p $(DURATIONS)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --junitxml=$(DURATIONS)/without-ray.xml tests/unit tests/components tests/engine tests/storage tests/http
	@$(BIN)/python -m pytest --junitxml=$(DURATIONS)/with-ray.xml tests/service tests/faults

check:  ## lint, types and unit tests: a minute or two
	@$(MAKE) --no-print-directory -j3 --output-sync=target lint types unit

lint: $(VENV)/dev.installed  ## style, spelling and the floors of the rooms
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-logo && $(BIN)/codespell

types: $(VENV)/dev.installed  ## mypy, strict
	@$(BIN)/mypy

unit: $(VENV)/dev.installed tessdata fonts poppler systemd  ## the unit tests
	@$(BIN)/python -m pytest -n auto tests/unit

docs: $(VENV)/dev.installed  ## the documentation as a site, in build/docs; a warning is an error
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "Written: build/docs/index.html"

configuration: $(VENV)/dev.installed  ## write docs/configuration.md from the settings
	@$(BIN)/python -m serve_app settings > docs/configuration.md

dashboards: $(VENV)/dev.installed  ## write the dashboards of Grafana
	@$(BIN)/python -m tools.make_dashboards

metrics: $(VENV)/dev.installed  ## write docs/metrics.md from the catalogue of metrics
	@$(BIN)/python -m serve_app metrics > docs/metrics.md

openapi: $(VENV)/dev.installed  ## write docs/openapi.json from the routes
	@$(BIN)/python -m serve_app openapi > docs/openapi.json

samples: $(VENV)/dev.installed  ## draw the sample pages anew
	@$(BIN)/python samples/make_samples.py

font: $(VENV)/dev.installed  ## make the font of searchable PDFs again
	@$(BIN)/python -m tools.make_font

pictures: $(VENV)/dev.installed tessdata  ## draw what Tesseract finds on the sample pages, for the READMEs
	@$(BIN)/python samples/draw_blocks.py

lock: $(VENV)/dev.installed  ## write requirements/ after a change of dependencies in pyproject.toml
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --extra tesseract --extra paddleocr-vl --extra paddle-cpu -c requirements/dev.txt pyproject.toml -o requirements/paddleocr-vl.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --extra tesseract -c requirements/dev.txt pyproject.toml -o requirements/serve.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 requirements/clients.in -o requirements/clients.txt

clean:  ## remove what was installed and built here
	rm -rf $(VENV) $(CLIENTS) build *.egg-info

# The lock files are complete, so pip has nothing to resolve.
$(VENV)/serve.installed: requirements/serve.txt pyproject.toml | $(VENV)/python.checked
	@echo "Installing into $(VENV) (about a minute)..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/serve.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/paddleocr-vl.installed: requirements/paddleocr-vl.txt $(VENV)/serve.installed
	@echo "Installing PaddleOCR-VL into $(VENV) (1.7 GB, about a minute)..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/paddleocr-vl.txt
	@touch $@

$(VENV)/dev.installed: requirements/dev.txt $(VENV)/serve.installed
	@echo "Installing what the tests need into $(VENV) (2 GB, a minute or two)..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/dev.txt
	@touch $@

# Other projects' clients, in an environment of their own as on their users' machines.
$(CLIENTS)/installed: requirements/clients.txt requirements/js/package-lock.json | $(VENV)/python.checked node
	@echo "Installing clients of others for the tests into $(CLIENTS) (0.6 GB, half a minute)..."
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r requirements/clients.txt
	@cp requirements/js/*.json $(CLIENTS) && cd $(CLIENTS) && npm ci --silent --no-audit --no-fund --omit=optional
	@touch $@

$(VENV)/python.checked:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is %d.%d. Another one: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# Tesseract's language data: install Debian's packages if that is allowed, else print what is missing.
tessdata: $(VENV)/serve.installed
	@$(BIN)/python -m serve_app.recognition.engines.tessdata $(LANGUAGES) >/dev/null 2>&1 || { \
	  if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	    echo "Installing Tesseract's language data ($(LANGUAGES))..."; \
	    as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    { $$as_root apt-get -q update && $$as_root apt-get -q install -y $(addprefix tesseract-ocr-,$(LANGUAGES)); } >/dev/null 2>&1; \
	  fi; \
	  $(BIN)/python -m serve_app.recognition.engines.tessdata $(LANGUAGES); }

# Fonts for PDFs that do not embed theirs: install Debian's packages if that is allowed, else print what is missing. The
# service works without them.
fonts: $(VENV)/serve.installed
	@$(BIN)/python -m serve_app.raster.fonts >/dev/null 2>&1 || { \
	  if command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	    echo "Installing fonts ($(FONTS))..."; \
	    as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	    { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends $(FONTS); } >/dev/null 2>&1; \
	  fi; \
	  $(BIN)/python -m serve_app.raster.fonts || true; }

node:
	@command -v npm >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends nodejs npm; } >/dev/null 2>&1; \
	  command -v npm >/dev/null || { echo "The tests try clients in JavaScript: install nodejs and npm."; exit 1; }; }

# Poppler, with which the tests read PDFs.
poppler:
	@command -v pdftotext >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y poppler-utils; } >/dev/null 2>&1; \
	  command -v pdftotext >/dev/null || { echo "The tests need pdftotext and pdftoppm: install poppler-utils."; exit 1; }; }

# kubectl or kustomize, with which the tests build the manifests for Kubernetes. Debian 12's kubectl is too old.
kubectl:
	@build() { if command -v kustomize >/dev/null; then kustomize build $$1; else kubectl kustomize $$1; fi; }; \
	build configs/kuberay/overlays/gpu-pool >/dev/null 2>&1 || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends kubernetes-client; } >/dev/null 2>&1; \
	  build configs/kuberay/overlays/gpu-pool >/dev/null || { echo "The tests build manifests for Kubernetes: install kubectl 1.25 or newer, or kustomize 4.5 or newer."; exit 1; }; }

# systemd-analyze, with which the tests check the units. systemd itself need not run.
systemd:
	@command -v systemd-analyze >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends systemd; } >/dev/null 2>&1; \
	  command -v systemd-analyze >/dev/null || { echo "The tests check units for systemd: install systemd."; exit 1; }; }

# Prometheus, with which the tests check alerts and dashboards.
prometheus:
	@command -v promtool >/dev/null && command -v prometheus >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends prometheus; } >/dev/null 2>&1; \
	  command -v promtool >/dev/null || { echo "The tests check alerts and dashboards: install prometheus, with promtool."; exit 1; }; }

# Redis, in which the tests let Ray's head node keep its state.
redis:
	@command -v redis-server >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  { $$as_root apt-get -q update && $$as_root apt-get -q install -y --no-install-recommends redis-server; } >/dev/null 2>&1; \
	  command -v redis-server >/dev/null || { echo "The tests kill a head node: install redis-server."; exit 1; }; }
