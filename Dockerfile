# The service on CPUs: docker build -t paddleocr-vl-serve .        (the same as with --target cpu)
#                      docker run -p 8081:8081 -e OCR_API_KEYS=me=secret --shm-size 10g \
#                        -v ocr-output:/app/output -v ocr-spool:/app/spool paddleocr-vl-serve
# With PaddleOCR-VL:   docker build --target gpu -t paddleocr-vl-serve:gpu .
#                      docker run --gpus all -p 8081:8081 -e OCR_API_KEYS=me=secret --shm-size 10g \
#                        -v ocr-output:/app/output -v ocr-spool:/app/spool -v paddlex:/home/ocr/.paddlex paddleocr-vl-serve:gpu
# The volumes keep results, what waits for the store, and the models, which are downloaded at the first start. To have them in the image instead:
#                      docker build --target gpu --build-arg MODELS=configs/gpu.yaml ...
# docker-compose.yaml and configs/kuberay/ use the same images: see docs/install.md.

# What both images have: Python, Tesseract's language data, fonts, the locked packages without Paddle, and the user.
FROM python:3.11-slim-bookworm AS base

RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      tesseract-ocr-eng tesseract-ocr-rus tesseract-ocr-osd \
      fonts-liberation fonts-dejavu-core fonts-crosextra-carlito fonts-crosextra-caladea \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements/serve.txt requirements/serve.txt
RUN python -m pip install --no-cache-dir --no-deps -r requirements/serve.txt
# Kubernetes can tell that a user is not root only by its number.
RUN useradd --uid 10001 --create-home ocr \
 && mkdir -p output temp spool /home/ocr/.paddlex && chown ocr output temp spool /home/ocr/.paddlex
EXPOSE 8081
HEALTHCHECK --interval=15s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/livez', timeout=5)"]


FROM base AS wheel

COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


# Paddle's wheels contain CUDA 12.6 and cuDNN, and the host has the driver, so no image of NVIDIA's is needed.
FROM base AS gpu

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# OpenCV needs libgl1 and libglib2.0, Paddle libgomp1.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/paddleocr-vl.txt requirements/paddleocr-vl.txt
# Install the locked packages, with Paddle for GPUs in the locked version in place of Paddle for CPUs. It comes from
# Paddle's own index, with the CUDA packages that it names. The locked versions stay as they are.
ARG PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/
RUN sed '/^paddlepaddle==/d' requirements/paddleocr-vl.txt > /tmp/locked.txt \
 && paddle=$(sed -n 's/^paddlepaddle==\([0-9.]*\).*/paddlepaddle-gpu==\1/p' requirements/paddleocr-vl.txt) \
 && test -n "$paddle" \
 && python -m pip install --no-cache-dir --no-deps -r /tmp/locked.txt \
 && python -m pip install --no-cache-dir -c /tmp/locked.txt --extra-index-url "$PADDLE_INDEX" "$paddle" \
 && rm /tmp/locked.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps /wheels/*.whl \
 && python -m serve_app.recognition.engines.tessdata eng rus osd && python -m serve_app.raster.fonts
COPY configs configs
COPY serve_config.yaml serve_config.yaml
USER 10001
ARG MODELS=""
RUN if [ -n "$MODELS" ]; then python -m serve_app models pull "$MODELS"; fi
CMD ["python", "-m", "serve_app", "serve", "configs/gpu.yaml", "--host", "0.0.0.0"]


FROM base AS cpu

COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir --no-deps /wheels/*.whl \
 && python -m serve_app.recognition.engines.tessdata eng rus osd && python -m serve_app.raster.fonts
COPY configs configs
COPY serve_config.yaml serve_config.yaml
USER 10001
CMD ["python", "-m", "serve_app", "serve", "configs/local.yaml", "--host", "0.0.0.0"]
