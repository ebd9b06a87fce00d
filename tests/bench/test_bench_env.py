import pytest

from llmgym.bench.env import Workload, run


def test_all_ways_are_measured_beside_each_other() -> None:
    work = Workload(levels=("GoToLocal",), single_steps=20, sizes=(1, 4), vector_seconds=0.02, repeats=1)
    figures = run(work).figures
    assert figures["GoToLocal_text_over_plain_seconds"] == pytest.approx(
        figures["GoToLocal_plain_steps_per_second"] / figures["GoToLocal_text_steps_per_second"]
    )
    for name in ("GoToLocal", "unending"):
        assert figures[f"{name}_batch_over_sync_4_steps"] == pytest.approx(
            figures[f"{name}_batch_4_steps_per_second"] / figures[f"{name}_sync_4_steps_per_second"]
        )
    assert min(figures.values()) > 0


@pytest.mark.slow
def test_text_is_cheap_and_a_batch_is_fast() -> None:
    figures = run(Workload(sizes=(256,))).figures
    for level in ("GoToLocal", "MixedTrainLocal"):
        assert figures[f"{level}_text_over_plain_seconds"] < 1.25
        assert figures[f"{level}_batch_over_sync_256_steps"] > 10
    assert figures["unending_batch_over_sync_256_steps"] > 10
