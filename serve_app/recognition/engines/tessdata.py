"""Finds Tesseract's language data, and says what to install where it is missing.

    python -m serve_app.recognition.engines.tessdata rus eng osd

prints nothing and exits with 0 where all of them are there, else prints one line and exits with 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serve_app.recognition.engines.engine import EngineLoadError

SYSTEM_FOLDERS = (
    "/usr/share/tesseract-ocr/5/tessdata",
    "/usr/share/tesseract-ocr/4.00/tessdata",
    "/usr/share/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
)


def find_tessdata(configured: str | None, languages: Sequence[str]) -> str:
    """The folder that holds the data of all `languages`: `configured` and no other, or the first one that does.

    Without a configured folder: TESSDATA_PREFIX, then the usual system folders. Raises EngineLoadError.
    """
    if configured is not None:
        folder = Path(configured).expanduser()
        if not folder.is_dir():
            raise EngineLoadError("the folder that 'tessdata' is set to does not exist")
        missing = _missing(folder, languages)
        if missing:
            raise EngineLoadError(f"{_advice(missing)}, or correct 'tessdata', which is set to another folder")
        return str(folder)

    folders = [folder for folder in _usual_folders() if folder.is_dir()]
    for folder in folders:
        if not _missing(folder, languages):
            return str(folder)
    # The folder that lacks least is the one the operator has been filling.
    raise EngineLoadError(_advice(min((_missing(folder, languages) for folder in folders), key=len, default=languages)))


def has_language(folder: str, language: str) -> bool:
    """Whether `folder` holds the data of `language`."""
    return Path(folder, f"{language}.traineddata").is_file()


def _usual_folders() -> list[Path]:
    # TESSDATA_PREFIX is the library's variable, not an option of ours. Asking the library instead
    # (tesserocr.get_languages) walks the whole working folder when the variable is not set.
    prefix = os.environ.get("TESSDATA_PREFIX")
    prefixes = [Path(prefix), Path(prefix, "tessdata")] if prefix else []
    return [*prefixes, *map(Path, SYSTEM_FOLDERS)]


def _missing(folder: Path, languages: Sequence[str]) -> list[str]:
    return [language for language in languages if not has_language(str(folder), language)]


def _advice(missing: Sequence[str]) -> str:
    names = ", ".join(f"'{language}'" for language in missing)
    packages = " ".join(f"tesseract-ocr-{language.lower().replace('_', '-')}" for language in missing)
    return f"language data for {names} not found; install {packages}"


def main(languages: Sequence[str]) -> int:
    try:
        find_tessdata(None, languages)
    except EngineLoadError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
