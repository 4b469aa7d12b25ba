"""A directory laid out and swapped as the kubelet does it with a mounted Secret."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path


class MountedSecret:
    """Publishes versions in the kubelet's order (its `AtomicWriter`): the new version beside the
    old, `..data` renamed over, links for new names, stale links removed, the old version removed.
    """

    def __init__(self, path: Path, content: Mapping[str, str | bytes]) -> None:
        self.path = path
        self._numbers = count(1)
        path.mkdir(parents=True)
        self.publish(content)

    def publish(self, content: Mapping[str, str | bytes]) -> None:
        data = self.path / "..data"
        old = data.resolve() if data.is_symlink() else None
        version = self.path / f"..2026_01_31_{next(self._numbers):06}"
        version.mkdir()
        for name, value in content.items():
            file = version / name
            file.write_bytes(value if isinstance(value, bytes) else value.encode())
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(data)
        for name in content:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for entry in self.path.iterdir():
            if not entry.name.startswith("..") and entry.name not in content:
                entry.unlink()
        if old is not None:
            shutil.rmtree(old)
