import importlib
import subprocess
import sys

import pytest

PACKAGES = ["llmgym.host", "llmgym.compat.lamorel"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == set(module._HOMES)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_importing_the_packages_loads_no_torch() -> None:
    script = f"import sys, {', '.join(PACKAGES)}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
