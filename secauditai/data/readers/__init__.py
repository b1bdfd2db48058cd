"""Readers: from files and directories of any known format to raw samples."""

from secauditai.data.readers.raw import RawSample
from secauditai.data.readers.registry import (
    FORMATS,
    READERS,
    Source,
    existing_path,
    file_stems,
    find_source,
    is_data_file,
    list_files,
    read_file,
)

__all__ = [
    "FORMATS",
    "READERS",
    "RawSample",
    "Source",
    "existing_path",
    "file_stems",
    "find_source",
    "is_data_file",
    "list_files",
    "read_file",
]
