"""Readers: from files of many formats to raw samples, each with the place it stands at."""

from secauditai.data.readers.raw import RawSample
from secauditai.data.readers.registry import FORMATS, READERS, list_files, read_file

__all__ = ["FORMATS", "READERS", "RawSample", "list_files", "read_file"]
