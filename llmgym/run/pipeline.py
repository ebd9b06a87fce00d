"""The pipeline: experience for one update after another, collected in turns with learning or while it goes on.

In turns, an update learns from what the policy just before it collected. Ahead, a thread collects while the learner
works: the experience of an update is begun once the policy of staleness + 1 updates before is served, so that none of
its turns is older than staleness allows, and newer weights are swapped in while it is collected.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from llmgym.config import RunConfig
from llmgym.engine.shared_engine import EngineTakenError, SharedEngine
from llmgym.run.experience import collect_experience, open_experience
from llmgym.run.learning import RunLearner
from llmgym.run.report import Reporter, SilentReporter
from llmgym.types import Decides, Engine, Trajectory

__all__ = ["CollectsAhead", "CollectsInTurns", "Experience", "Pipeline", "open_pipeline"]


@dataclass(frozen=True, slots=True)
class Experience:
    """What an update learns from.

    Attributes:
        trajectories: at least one.
        seconds: that collecting them took, waiting for swaps of weights included.
    """

    trajectories: list[Trajectory]
    seconds: float

    @property
    def num_env_steps(self) -> int:
        """Environment steps taken."""
        return sum(len(trajectory.turns) for trajectory in self.trajectories)


class Pipeline(Protocol):
    """Where a run's experience comes from, and where new weights go: taken and published by turns."""

    def take(self) -> Experience:
        """Return the experience of the next update."""
        ...

    def publish(self, learner: RunLearner, *, is_kept: bool = True) -> dict[str, float]:
        """Let the learner's weights collect from now on; see `Learner.publish`.

        Args:
            is_kept: whether a checkpoint of them is kept. The weights of others may stay unpublished where nobody acts.
        """
        ...


@contextmanager
def open_pipeline(
    config: RunConfig,
    learner: RunLearner,
    engine: Engine,
    *,
    num_updates: int,
    num_done: int = 0,
    reporter: Reporter | None = None,
) -> Iterator[Pipeline]:
    """Collect for as long as the context lasts; no thread is left behind it.

    Args:
        config: of the run.
        learner: who learns from it.
        engine: who collects.
        num_updates: how many updates there will be.
        num_done: updates that were taken before.
        reporter: who watches.
    """
    staleness = config.collect.staleness
    shared = SharedEngine(engine) if staleness else None
    acts: Decides = engine if shared is None else shared
    with open_experience(config, learner, acts, num_done, reporter or SilentReporter()) as collector:

        def collect() -> list[Trajectory]:
            return collect_experience(collector, learner.algorithm, config.collect, config.returns)

        if shared is None:
            yield CollectsInTurns(collect, engine, acts=not config.collect.datasets)
            return
        ahead = CollectsAhead(collect, shared, staleness=staleness, num_updates=num_updates)
        try:
            yield ahead
        finally:
            ahead.close()


class CollectsInTurns:
    """Collects when an update asks, with the weights that were published last; meanwhile nothing is learned."""

    def __init__(self, collect: Callable[[], list[Trajectory]], engine: Engine, *, acts: bool = True) -> None:
        """Be ready to collect.

        Args:
            collect: collects the experience of one update.
            engine: who takes new weights.
            acts: whether it is the engine that collects; recorded episodes need nobody who acts.
        """
        self._collect = collect
        self._engine = engine
        self._acts = acts

    def take(self) -> Experience:
        """Collect, and leave a GPU that is shared to the learner."""
        begun = time.monotonic()
        trajectories = self._collect()
        experience = Experience(trajectories, time.monotonic() - begun)
        self._engine.sleep()
        return experience

    def publish(self, learner: RunLearner, *, is_kept: bool = True) -> dict[str, float]:
        """Swap the weights into the engine, if it acts with them, or if they are kept."""
        self._engine.wake_up()
        return learner.publish(self._engine) if self._acts or is_kept else {}


class CollectsAhead:
    """Collects in a thread of its own, up to `staleness` updates ahead of the one that is learned.

    An error of the thread is raised in place of the next experience.
    """

    def __init__(
        self, collect: Callable[[], list[Trajectory]], engine: SharedEngine, *, staleness: int, num_updates: int
    ) -> None:
        """Begin to collect.

        Args:
            collect: collects the experience of one update, with this engine.
            engine: who collects.
            staleness: most updates that the policy of an experience may be behind, at least 1.
            num_updates: how many experiences to collect.
        """
        self._collect = collect
        self._engine = engine
        self._staleness = staleness
        self._num_updates = num_updates
        self._changed = threading.Condition()
        self._collected: deque[Experience] = deque()
        self._num_published = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="llmgym-collect")
        self._thread.start()

    def take(self) -> Experience:
        """Wait for the oldest experience that was not taken yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._collected or self._error is not None)
            self._raise_error()
            return self._collected.popleft()

    def publish(self, learner: RunLearner, *, is_kept: bool = True) -> dict[str, float]:
        """Swap the weights between two decisions of the thread; one experience more may be begun then."""
        try:
            with self._engine.held() as engine:
                found = learner.publish(engine)
        except EngineTakenError:
            self._raise_error()
            raise
        with self._changed:
            self._num_published += 1
            self._changed.notify_all()
        return found

    def close(self) -> None:
        """End the thread, as soon as its engine has answered what it was asked last; a second call does nothing."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._engine.take_away()
        self._thread.join()

    def _run(self) -> None:
        """Collect one experience after another, none before it is recent enough."""
        try:
            for number in range(self._num_updates):
                if not self._wait_for_turn(number):
                    return
                begun = time.monotonic()
                trajectories = self._collect()
                with self._changed:
                    self._collected.append(Experience(trajectories, time.monotonic() - begun))
                    self._changed.notify_all()
        except EngineTakenError:
            return
        # The boundary of a thread: whatever it is, the run ends with it, in the thread that learns.
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
            self._engine.take_away()

    def _wait_for_turn(self, number: int) -> bool:
        """Wait until an experience, counted from 0, may be begun; tell whether it is still wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or number <= self._num_published + self._staleness)
            return not self._is_over

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
