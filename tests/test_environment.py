"""The versions and the hardware that a run records."""

from __future__ import annotations

from bertfit.environment import describe_environment


def test_the_environment_names_versions_and_hardware():
    environment = describe_environment()
    assert {"bertfit", "python", "torch", "transformers"} <= set(environment["versions"])
    assert environment["hardware"]["num_cores"] >= 1
    assert environment["hardware"]["processor"]
