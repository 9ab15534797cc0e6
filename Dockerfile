# The service on CPUs: docker build -t paddleocr-vl-serve .        (the same as with --target cpu)
#                      docker run -p 8081:8081 -e OCR_API_KEYS=me=secret --shm-size 2g paddleocr-vl-serve
# With PaddleOCR-VL:   docker build --target gpu -t paddleocr-vl-serve:gpu .
#                      docker run --gpus all -p 8081:8081 -e OCR_API_KEYS=me=secret --shm-size 2g \
#                        -v paddlex:/home/ocr/.paddlex paddleocr-vl-serve:gpu
# The volume keeps the models, which are downloaded at the first start. To have them in the image instead:
#                      docker build --target gpu --build-arg MODELS=configs/gpu.yaml ...

# Paddle's wheels contain CUDA 12.6 and cuDNN, and the host has the driver, so NVIDIA's smallest image is enough.
# Ubuntu 24.04 has Python 3.12; 22.04 has 3.10, which is too old.
FROM nvidia/cuda:12.6.3-base-ubuntu24.04 AS gpu

# OpenCV needs libgl1 and libglib2.0, Paddle libgomp1.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      python3 python3-venv libgl1 libglib2.0-0t64 libgomp1 \
      tesseract-ocr-eng tesseract-ocr-rus tesseract-ocr-osd \
      fonts-liberation fonts-dejavu-core fonts-crosextra-carlito fonts-crosextra-caladea \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
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
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
RUN python -m pip install --no-cache-dir --no-deps .
RUN python -m serve_app.recognition.engines.tessdata eng rus osd && python -m serve_app.raster.fonts
COPY configs configs
COPY serve_config.yaml serve_config.yaml

RUN useradd --create-home ocr && mkdir -p output temp /home/ocr/.paddlex && chown ocr output temp /home/ocr/.paddlex
USER ocr
ARG MODELS=""
RUN if [ -n "$MODELS" ]; then python -m serve_app models pull "$MODELS"; fi
EXPOSE 8081
HEALTHCHECK --interval=15s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/-/healthz', timeout=5)"]
CMD ["python", "-m", "serve_app", "serve", "configs/gpu.yaml", "--host", "0.0.0.0"]


FROM python:3.11-slim-bookworm AS cpu

RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      tesseract-ocr-eng tesseract-ocr-rus tesseract-ocr-osd \
      fonts-liberation fonts-dejavu-core fonts-crosextra-carlito fonts-crosextra-caladea \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements/serve.txt requirements/serve.txt
RUN python -m pip install --no-cache-dir --no-deps -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
RUN python -m pip install --no-cache-dir --no-deps .
RUN python -m serve_app.recognition.engines.tessdata eng rus osd && python -m serve_app.raster.fonts
COPY configs configs
COPY serve_config.yaml serve_config.yaml

RUN useradd --create-home ocr && mkdir output temp && chown ocr output temp
USER ocr
EXPOSE 8081
HEALTHCHECK --interval=15s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/-/healthz', timeout=5)"]
CMD ["python", "-m", "serve_app", "serve", "configs/local.yaml", "--host", "0.0.0.0"]
