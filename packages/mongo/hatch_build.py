"""Build metadata that every distribution of this workspace shares: one version, and siblings pinned to it.

The version is in the file VERSION at the root of the workspace. ``{version}`` in the dependencies below
``[tool.hatch.metadata.hooks.custom]`` of a package's pyproject.toml stands for it.

Each package carries its own copy of this file, because a source distribution has to be complete in itself; ``nox -s lint`` checks
that the copies are equal. When a wheel is built from a source distribution nothing in here is asked: all fields are in PKG-INFO.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class WorkspaceMetadata(MetadataHookInterface):
    """Sets ``version``, ``dependencies`` and ``optional-dependencies``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Write the dynamic fields into `metadata`, the ``[project]`` table."""
        version = workspace_version(Path(self.root))
        metadata["version"] = version
        metadata["dependencies"] = pinned(self.config["dependencies"], version)
        if "optional-dependencies" in self.config:
            metadata["optional-dependencies"] = {
                extra: pinned(requirements, version) for extra, requirements in self.config["optional-dependencies"].items()
            }


def workspace_version(package: Path) -> str:
    """Return the version of the workspace that `package`, a folder, belongs to."""
    for folder in package.resolve().parents:
        version_file = folder / "VERSION"
        if version_file.is_file():
            return version_file.read_text(encoding="utf-8").strip()
    raise FileNotFoundError(f"no file VERSION above {package}: build from a checkout of the workspace or from an sdist")


def pinned(requirements: list[str], version: str) -> list[str]:
    """Return `requirements` with ``{version}`` filled in."""
    return [requirement.replace("{version}", version) for requirement in requirements]
