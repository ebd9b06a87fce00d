import importlib

import pytest


@pytest.mark.parametrize("package", ["llmgym.algorithms", "llmgym.learner", "llmgym.sync", "llmgym.bench"])
def test_every_public_name_of_a_package_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_an_unknown_name_of_the_learner_is_an_attribute_error() -> None:
    import llmgym.learner

    with pytest.raises(AttributeError, match="has no attribute 'Lerner'"):
        llmgym.learner.Lerner  # noqa: B018
