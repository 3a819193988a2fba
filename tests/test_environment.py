"""The versions and the hardware that a run records."""

from __future__ import annotations

import platform
from importlib import metadata

import pytest

from bertfit.environment import count_cores, describe_environment


def test_the_environment_names_versions_and_hardware():
    environment = describe_environment()
    assert {"bertfit", "python", "torch", "transformers"} <= set(environment["versions"])
    assert environment["hardware"]["num_cores"] >= 1
    assert environment["hardware"]["processor"]


def test_cores_are_counted_whatever_the_environment_says(monkeypatch):
    """A number that is none ended a training when its record was to be written."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert count_cores() == 1
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "many")
    assert count_cores() >= 1


def test_a_processor_without_a_name_is_told_by_its_kind(monkeypatch, tmp_path):
    """As those of ARM, whose /proc/cpuinfo has numbers only."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd49\n")
    monkeypatch.setattr("bertfit.environment._CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert describe_environment()["hardware"]["processor"] == "aarch64"


@pytest.mark.parametrize("is_there", [True, False])
def test_triton_is_named_where_it_is_installed(monkeypatch, is_there):
    def find_version(package):
        if package == "triton" and not is_there:
            raise metadata.PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr(metadata, "version", find_version)
    versions = describe_environment()["versions"]
    assert versions.get("triton") == ("1.2" if is_there else None)
    assert versions["torch"] == "1.2"
