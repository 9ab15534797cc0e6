"""Every setting of the service, with its default, limits and unit. Uses no other room; no other room reads the environment.

`Settings` comes from `args` in the Serve config (YAML); unknown names are refused, so a typo is an
error at deploy time. Secrets come only from the environment, which is read once, when the graph is built.
"""

from serve_app.settings.engines import (
    DummySettings,
    EngineSettings,
    NativeVlmSettings,
    PaddleOcrVlSettings,
    TesseractSettings,
    VlmServerLaunchSettings,
    VlmServerSettings,
)
from serve_app.settings.environment import Secrets, with_environment
from serve_app.settings.paths import resolve
from serve_app.settings.replicas import ReplicaRange
from serve_app.settings.service import JobSettings, Limits, RasterSettings, Settings
from serve_app.settings.stores import FolderStoreSettings, S3StoreSettings, StoreSettings

__all__ = [
    "DummySettings",
    "EngineSettings",
    "FolderStoreSettings",
    "JobSettings",
    "Limits",
    "NativeVlmSettings",
    "PaddleOcrVlSettings",
    "RasterSettings",
    "ReplicaRange",
    "S3StoreSettings",
    "Secrets",
    "Settings",
    "StoreSettings",
    "TesseractSettings",
    "VlmServerLaunchSettings",
    "VlmServerSettings",
    "resolve",
    "with_environment",
]
