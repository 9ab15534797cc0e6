"""What clients of the service that this one replaces rely on."""

from __future__ import annotations

import httpx
import pytest

from serve_app import __version__
from tests.support.service import KEY, Service


def test_index_is_as_it_was(service: Service) -> None:
    with service.client() as client:
        answer = client.get("/")
    assert answer.status_code == 200
    assert answer.json() == {
        "service": "PaddleOCR-VL Service",
        "version": __version__,
        "description": "OCR service with support for Base64, URL, and multipart image uploads",
        "endpoints": {
            "docs": "/docs - Swagger UI (интерактивная документация API)",
            "redoc": "/redoc - ReDoc (альтернативная документация)",
            "openapi": "/openapi.json - OpenAPI схема",
            "health": "/health - Проверка здоровья сервиса",
            "ocr": "/ocr - POST - OCR обработка изображений",
        },
        "usage": "Перейдите на /docs для интерактивного использования API",
    }


def test_index_speaks_english_to_those_who_ask(service: Service) -> None:
    with service.client() as client:
        english = client.get("/", headers={"Accept-Language": "en-GB,en;q=0.9"}).json()
        russian = client.get("/").json()
    assert english.keys() == russian.keys() and english["endpoints"].keys() == russian["endpoints"].keys()
    assert english["usage"] == "Open /docs to use the API interactively"
    assert not any("а" <= letter <= "я" for letter in str(english).lower())


def test_health_keeps_its_six_fields(service: Service) -> None:
    with service.client() as client:
        health = client.get("/health").json()
    assert health["status"] == "healthy"
    assert health["paddleocr"] == "initialized"
    assert health["s3_storage"] == "not_configured"
    assert health["docs"] == "/docs - Swagger UI для тестирования API"
    assert all(isinstance(health[name], str) for name in ("output_dir", "temp_dir"))
    assert health["output_writable"] is True and health["temp_writable"] is True
    assert health["engines"]["tesseract"]["version"].startswith("5.")


def test_health_says_how_many_rasterizers_respond_and_how_old_all_of_it_is(service: Service) -> None:
    with service.client() as client:
        health = client.get("/health").json()
    assert (health["rasterizers"]["state"], health["rasterizers"]["replicas"]) == ("available", 1)
    parts = [health["jobs"], health["rasterizers"], *health["engines"].values()]
    ages = [health["storage_age_s"], *(part["age_s"] for part in parts)]
    assert min(ages) >= 0 and health["age_s"] == max(ages)


@pytest.mark.parametrize(("path", "status"), [("/livez", "alive"), ("/readyz", "ready")])
def test_probes_need_no_key(service: Service, path: str, status: str) -> None:
    answer = httpx.get(service.url + path)
    assert (answer.status_code, answer.json()) == (200, {"status": status})


@pytest.mark.parametrize("path", ["/", "/health"])
def test_every_endpoint_asks_for_the_key(service: Service, path: str) -> None:
    answer = httpx.get(service.url + path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"token {KEY}", "Bearer second-key"])
def test_each_key_opens_in_each_form(service: Service, header: str) -> None:
    assert httpx.get(f"{service.url}/health", headers={"Authorization": header}).status_code == 200
    assert httpx.get(f"{service.url}/health", headers={"X-API-Key": KEY}).status_code == 200


def test_documentation_is_open_and_comes_from_here(service: Service) -> None:
    for path in ("/docs", "/redoc"):
        page = httpx.get(service.url + path)
        assert page.status_code == 200
        assert "cdn" not in page.text and "fonts.googleapis" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"):
        assert httpx.get(f"{service.url}/static-offline-docs/{asset}").status_code == 200
    schema = httpx.get(f"{service.url}/openapi.json").json()
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert set(schema["paths"]["/ocr"]["post"]["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/json",
        "application/x-www-form-urlencoded",
    }


def test_documentation_pages_load_nothing_from_elsewhere(service: Service) -> None:
    for path in ("/docs", "/redoc"):
        policy = httpx.get(service.url + path).headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy


def test_swagger_sends_empty_fields_where_one_fills_in_nothing(service: Service, russian_page: bytes) -> None:
    """What Swagger UI fills in by itself must not get in the way of a file."""
    schema = httpx.get(f"{service.url}/openapi.json").json()
    form = schema["paths"]["/ocr"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    filled_in = {name: field["example"] for name, field in form.items() if name != "file"}
    assert set(filled_in.values()) == {""}
    with service.client() as client:
        assert client.post("/ocr", data=filled_in, files={"file": russian_page}).status_code == 200


def test_the_schema_tells_of_the_errors_that_are_sent(service: Service) -> None:
    schema = httpx.get(f"{service.url}/openapi.json").json()
    for path in ("/", "/health", "/ocr"):
        for operation in schema["paths"][path].values():
            assert set(operation["responses"]) == {"200", "default"}
    assert not {"HTTPValidationError", "ValidationError"} & schema["components"]["schemas"].keys()


def test_nothing_but_the_documentation_is_open(service: Service) -> None:
    for path in ("/ocr", "/docsx", "/openapi.json/x", "/nothing"):
        assert httpx.get(service.url + path).status_code in (401, 404)
    assert httpx.get(f"{service.url}/docs/../health").status_code == 401
    assert httpx.get(f"{service.url}/nothing").status_code == 401


def test_the_request_id_is_in_the_header_once(service: Service) -> None:
    with service.client() as client:
        answer = client.get("/health", headers={"X-Request-ID": "client.id-7"})
        assert answer.headers.get_list("x-request-id") == ["client.id-7"]
        assert len(client.get("/health").headers.get_list("x-request-id")) == 1
