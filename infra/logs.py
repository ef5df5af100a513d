"""Files as logs: which source reads them. Light, so that a command that only sends a log loads no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.formats.decoder import TopicDecoder
from stream.sources.file import FileSource
from stream.sources.recorded import RecordedSource
from stream.sources.recorded_files import is_recorded, log_meta

if TYPE_CHECKING:
    from infra.settings import Loaded


def open_log(path: str, loaded: Loaded) -> FileSource | RecordedSource:
    """Return the source of a log: a file, a folder or a glob; files of `freshet export-log` are told by their columns."""
    if is_recorded(path):
        items_topic = log_meta(path).items_topic or loaded.settings.kafka.items_topic
        return RecordedSource(path, TopicDecoder(loaded.settings.formats, items_topic))
    return FileSource(path, loaded.settings.log)


def open_items(path: str, loaded: Loaded) -> FileSource:
    """Return the source of an item file."""
    return FileSource(path, loaded.settings.items)
