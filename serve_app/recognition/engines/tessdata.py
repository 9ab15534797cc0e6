"""Finds Tesseract's language data, or says which packages to install.

    python -m serve_app.recognition.engines.tessdata rus eng osd

prints nothing and exits with 0 if all of them are installed; else it prints one line and exits with 1.
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
    """Return the folder that holds the data of all `languages`. Raises EngineLoadError if there is none.

    If `configured` is set, only that folder is searched; else TESSDATA_PREFIX, then the usual system folders.
    """
    if configured is not None:
        folder = Path(configured).expanduser()
        if not folder.is_dir():
            raise EngineLoadError("the folder in 'tessdata' does not exist")
        missing = _missing(folder, languages)
        if missing:
            raise EngineLoadError(f"{_advice(missing)}, or correct 'tessdata', which names another folder")
        return str(folder)

    folders = [folder for folder in _usual_folders() if folder.is_dir()]
    for folder in folders:
        if not _missing(folder, languages):
            return str(folder)
    # The message is about the folder with the fewest languages missing: the operator most likely uses that one.
    raise EngineLoadError(_advice(min((_missing(folder, languages) for folder in folders), key=len, default=languages)))


def has_language(folder: str, language: str) -> bool:
    """Whether `folder` holds the data of `language`."""
    return Path(folder, f"{language}.traineddata").is_file()


def _usual_folders() -> list[Path]:
    # TESSDATA_PREFIX is Tesseract's variable, not a setting of this service. `tesserocr.get_languages` is no
    # alternative: without the variable it walks the whole working folder.
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
