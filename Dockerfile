# The service on CPUs: docker build --target cpu -t paddleocr-vl-serve .
#                      docker run -p 8081:8081 -e OCR_API_KEYS=me=secret --shm-size 2g paddleocr-vl-serve
FROM python:3.11-slim-bookworm AS cpu

RUN apt-get update \
 && apt-get install -y --no-install-recommends tesseract-ocr-eng tesseract-ocr-rus tesseract-ocr-osd \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements/serve.txt requirements/serve.txt
RUN python -m pip install --no-cache-dir --no-deps -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
RUN python -m pip install --no-cache-dir --no-deps .
RUN python -m serve_app.recognition.engines.tessdata eng rus osd
COPY configs configs
COPY serve_config.yaml serve_config.yaml

RUN useradd --create-home ocr && mkdir output temp && chown ocr output temp
USER ocr
EXPOSE 8081
HEALTHCHECK --interval=15s --start-period=60s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/-/healthz', timeout=5)"]
CMD ["python", "-m", "serve_app", "serve", "configs/local.yaml", "--host", "0.0.0.0"]
