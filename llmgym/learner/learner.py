"""The learner: values, scores and updates a policy, publishes it to an engine, and saves it. Knows no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.algorithms import PPO, Algorithm, Credit
from llmgym.algorithms.algorithm import Guides, credit_of, wants_reference
from llmgym.learner.checkpoint import Checkpoint, Settings, read_checkpoint, write_checkpoint
from llmgym.learner.distribution import checked_acting
from llmgym.learner.evaluation import checked_policy
from llmgym.learner.folder import whole_folder
from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.gradient import Gradients
from llmgym.learner.heads import HeadSpec, heads_for
from llmgym.learner.loading import load_model, load_tokenizer
from llmgym.learner.lora import LoraSettings
from llmgym.learner.non_finite import NonFiniteError, OnNonFinite
from llmgym.learner.optimizer import build_optimizer, optimizer_tensors, set_model_rate
from llmgym.learner.policy import Policy
from llmgym.learner.precision import CANARY_TOLERANCES
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.reader import PolicyReader
from llmgym.learner.reference import Reference
from llmgym.learner.review import Review
from llmgym.learner.settings import OptimizerName, Precision
from llmgym.learner.target_heads import attach_targets
from llmgym.learner.threads import at_work, default_num_threads
from llmgym.learner.update import Update, run_update
from llmgym.sync import Publisher, check_canary, random_canary
from llmgym.types import Acting, Batch, Engine, FloatArray, TokenIds, Tokenizer, Trajectory, Turn

__all__ = ["Learner"]


class Learner:
    """A policy that learns: language model, adapter, heads, optimizer.

    Attributes:
        policy: the model and its heads.
        max_context_tokens: longest prompt, with its action, that the model can read.
        version: policy version that was published last; 0 is the model as it was loaded.
        canary: what engine and learner both score after every publication; set it to score something else.
        canary_tolerance: largest difference between them that is taken for rounding, in nats.
        skipped: the steps that the last update left out, where on_non_finite is "skip".
    """

    version: int = 0

    def __init__(
        self,
        model: Any,
        *,
        lora: LoraSettings | None = None,
        trained: TrainedSettings | None = None,
        load_in_4bit: bool = False,
        precision: Precision = "float32",
        heads: Mapping[str, HeadSpec] | None = None,
        algorithm: Algorithm | None = None,
        acting: Acting | None = None,
        learning_rate: float = 1e-4,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        optimizer: OptimizerName = "adamw",
        max_grad_norm: float | None = 0.5,
        on_non_finite: OnNonFinite = "stop",
        max_tokens_per_microbatch: int = 4096,
        num_threads: int | None = None,
        canary_tolerance: float | None = None,
        seed: int = 0,
        device: str | None = None,
        eos_token_id: int | None = None,
        rank: Rank = ALONE,
    ) -> None:
        """Load a model and make it learn.

        Args:
            model: a folder, a hub id, or a transformers PreTrainedModel (of which a copy is taken).
            lora, trained: learn an adapter of this kind, or, if None, the model's own weights, these or all.
            load_in_4bit: pack the weights under the adapter into 4 bits (NF4): far less memory, and slower.
            precision: "float32", or "bf16" for matrix products in bfloat16: see `llmgym.learner.precision`.
            heads: name to module over hidden states, or to what makes one from hidden_size; the algorithm's if None.
            algorithm: the loss and how often to take it; PPO by default.
            acting: how actions are drawn; the same as the engine's.
            learning_rate, head_learning_rate: of the model or its adapter, and of the heads; the same if None.
            weight_decay: at least 0; larger pulls weights to 0.
            optimizer: "adamw", "muon" or one of bitsandbytes: see `llmgym.learner.settings.LearnerSettings`.
            max_grad_norm: longest gradient that is not scaled down; None for no limit.
            on_non_finite: "stop" with an error at a loss or gradient that is not finite, or "skip" its step.
            max_tokens_per_microbatch: tokens of one forward pass, padding included; more needs more memory.
            num_threads: torch's threads while the learner works; all that the process may use if None or 0.
            canary_tolerance: of engine and learner, in nats; as much as the precision rounds if None.
            seed: of the heads, the adapter, and the order of minibatches.
            device: where the model is put; a GPU if there is one, by default.
            eos_token_id: ends candidates that are a prefix of another, if acting is "constrained"; the model's if None.
            rank: which of the processes of a `LearnerGroup` this is; all are made with the same settings.

        Raises:
            LearnerError: the model cannot be learned with these settings.
        """
        self.acting, algorithm = checked_acting(acting or Acting()), algorithm or PPO()
        specs = heads_for(algorithm) if heads is None else heads
        self._num_threads = num_threads or default_num_threads()
        with at_work(self._num_threads):
            formats: dict[str, Any] = {"load_in_4bit": load_in_4bit, "precision": precision}
            loaded = load_model(model, device=device, has_adapter=lora is not None, **formats)
            policy = Policy(loaded, specs, lora, trained=trained, precision=precision, seed=seed)
            self.policy = attach_targets(checked_policy(policy), algorithm)
        self._settings = Settings(
            source=str(model) if isinstance(model, str | Path) else None,
            algorithm=algorithm,
            acting=self.acting,
            learning_rate=learning_rate,
            head_learning_rate=learning_rate if head_learning_rate is None else head_learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            max_tokens=max_tokens_per_microbatch,
            eos_token_id=self.policy.eos_token_id if eos_token_id is None else eos_token_id,
            lora=lora,
            optimizer=optimizer,
            trained=trained,
            on_non_finite=on_non_finite,
            **formats,
            canary_tolerance=canary_tolerance,
        )
        self.max_context_tokens = self.policy.max_positions
        self.canary = random_canary(self.policy.vocab_size, max_tokens=min(80, self.max_context_tokens))
        self.canary_tolerance = CANARY_TOLERANCES[precision] if canary_tolerance is None else canary_tolerance
        self.skipped: list[NonFiniteError] = []
        self._rng = np.random.default_rng(seed)
        self._rank = rank
        self._gradients = Gradients(self.policy, rank)
        self._publisher = Publisher()
        self._optimizer = build_optimizer(self.policy, self._settings)
        self._reference = Reference(self.policy) if wants_reference(self.algorithm) else None

    @property
    def algorithm(self) -> Algorithm:
        """The loss, and how often an update takes it."""
        return self._settings.algorithm

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the model, or a LearnerError: the learner itself sees token ids only."""
        return load_tokenizer(self._settings.source)

    def set_algorithm(
        self, algorithm: Algorithm, *, learning_rate: float | None = None, optimizer: OptimizerName | None = None
    ) -> None:
        """Learn with another algorithm from now on, on the same weights, with a fresh optimizer.

        The policy is then as it is now the reference of an algorithm that wants one. Where nothing changes, optimizer
        and reference stay as they are: a resumed run goes on to the same numbers. What is None is as before.
        """
        old = self._settings
        rate = old.learning_rate if learning_rate is None else learning_rate
        self._settings = replace(old, algorithm=algorithm, learning_rate=rate, optimizer=optimizer or old.optimizer)
        if self._settings != old:
            attach_targets(self.policy, algorithm)
            self._optimizer = build_optimizer(self.policy, self._settings)
            self._reference = Reference(self.policy) if wants_reference(algorithm) else None

    def scale_learning_rate(self, factor: float) -> None:
        """Take the next steps at the model's learning rate times a factor, 0 or more: for warm-up and decay."""
        set_model_rate(self._optimizer, self._settings.learning_rate * factor)

    def values(self, trajectories: Sequence[Trajectory], *, head: str = "value") -> list[FloatArray]:
        """Return what a head says of every state of every trajectory.

        Returns:
            for each trajectory, float32 (num_units + 1,), a unit being what the algorithm gives credit to, a turn or a
            draw; the last is the state after the last turn, 0 where that terminated the episode.

        Raises:
            LearnerError: there is no such head.
        """
        return self._reader.values(trajectories, head, credit_of(self.algorithm))

    def logprobs(self, turns: Sequence[Turn], *, credit: Credit = "turn") -> FloatArray:
        """Return float32 (num_units,): the log-probability now of all that each turn drew, or of every "draw" of it."""
        return self._reader.logprobs(turns, credit)

    def review(self, trajectories: Sequence[Trajectory], *, head: str = "value") -> Review:
        """Return what `values` and `logprobs` do, from one pass: faster where both are wanted."""
        return self._reader.review(trajectories, head, credit_of(self.algorithm))

    def action_logprobs(self, turns: Sequence[Turn], *, beta: float = 0.0) -> list[FloatArray]:
        """Return float32 (num_candidates,) a turn: what actions are drawn from now, guided beta times by heads."""
        return self._reader.action_logprobs(turns, self.algorithm if isinstance(self.algorithm, Guides) else None, beta)

    def score(self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]]) -> list[FloatArray]:
        """Return log P(candidate | context), all given as token ids: float32 (num_candidates,) a context."""
        return self._reader.scores(contexts, candidates)

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch: epochs of shuffled minibatches of whole episodes, a gradient step each.

        Returns:
            the algorithm's metrics (means over turns of all epochs), and those of `run_update`.

        Raises:
            LearnerError: the batch is not usable.
            NonFiniteError: a loss or gradient is not finite, and its step is not taken; see `skipped`, too.
        """
        chosen, self.skipped = self._settings, []
        update = Update(chosen.algorithm, self.acting, chosen.max_tokens, chosen.max_grad_norm, chosen.on_non_finite)
        with at_work(self._num_threads):
            return run_update(
                self._gradients,
                self._optimizer,
                self._reader.rows(batch.turns),
                batch,
                update=update,
                rng=self._rng,
                reference=self._reference,
                skipped=self.skipped,
            )

    def publish(self, engine: Engine, *, version: int | None = None) -> dict[str, float]:
        """Swap the weights into a running engine, and check on the canary that it holds them.

        Args:
            version: what to call them; one more than the last version if None. After `load`, pass
                `learner.version` to go on with a new engine where the old one was.

        Returns:
            canary_gap: the largest difference between the scores of engine and learner, in nats.

        Raises:
            SyncError: the engine refuses the weights, or scores the canary differently. The run must stop.
        """
        published = self.version + 1 if version is None else version
        self._publisher.publish(engine, self.policy, published)
        gap = check_canary(engine, self.score, self.canary, version=published, tolerance=self.canary_tolerance)
        self.version = published
        return {"canary_gap": gap}

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint, whole or not at all; a folder of that name is replaced."""
        with whole_folder(folder) as unfinished:
            self.write(unfinished)

    def write(self, folder: Path) -> None:
        """Write the files of a checkpoint into a folder, for callers that add files of their own to it."""
        record = Checkpoint(self._settings, self.version, self._rng.bit_generator.state)
        reference = None if self._reference is None else self._reference.tensors()
        write_checkpoint(folder, record, self.policy, optimizer_tensors(self._optimizer, self.policy), reference)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: Any = None,
        heads: Mapping[str, HeadSpec] | None = None,
        algorithm: Algorithm | None = None,
        num_threads: int | None = None,
        device: str | None = None,
        rank: Rank = ALONE,
    ) -> Learner:
        """Go on from a checkpoint, to the same numbers.

        Args:
            folder: what `save` wrote.
            model: the base model, where it is no longer where the checkpoint says.
            heads, algorithm: as when it was saved, without target heads; not needed where they are llmgym's own.
            num_threads, device, rank: see `Learner`. A checkpoint of several ranks is one of any number of them.

        Raises:
            LearnerError: the folder is no complete checkpoint, or does not fit what is given.
        """
        saved = read_checkpoint(Path(folder), heads=heads, algorithm=algorithm)
        found = saved.checkpoint.settings
        given = found.arguments() | {"num_threads": num_threads, "device": device, "rank": rank}
        learner = cls(model or saved.model, heads=saved.heads, **given)
        saved.restore(learner.policy, learner._optimizer)
        learner._rng.bit_generator.state = saved.checkpoint.rng_state
        learner.version = saved.checkpoint.version
        if wants_reference(learner.algorithm):
            learner._reference = Reference(learner.policy, saved.reference_tensors)
        if model is None:
            learner._settings = found
        return learner

    def close(self) -> None:
        """Remove the folder that the last adapter was published in; a second call does nothing."""
        self._publisher.close()

    @property
    def _reader(self) -> PolicyReader:
        max_tokens, eos = self._settings.max_tokens, self._settings.eos_token_id
        return PolicyReader(self.policy, self.acting, max_tokens, eos, num_threads=self._num_threads, rank=self._rank)
