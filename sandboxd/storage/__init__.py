"""Disks: the writable side of a sandbox, an empty file system cloned from a template."""

from sandboxd.storage.disks import DISK_MAX_BYTES, DISK_MIN_BYTES, DiskTemplates

__all__ = ["DISK_MAX_BYTES", "DISK_MIN_BYTES", "DiskTemplates"]
