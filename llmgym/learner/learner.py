"""The learner: values, scores and updates a policy, publishes it to an engine, and saves it. Knows no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.algorithms import PPO, Algorithm
from llmgym.algorithms.algorithm import credit_of, wants_reference
from llmgym.learner import inference
from llmgym.learner.checkpoint import Checkpoint, Settings, read_checkpoint, write_checkpoint
from llmgym.learner.distribution import checked_acting
from llmgym.learner.evaluation import checked_policy
from llmgym.learner.folder import whole_folder
from llmgym.learner.freezing import TrainedSettings
from llmgym.learner.gradient import Gradients
from llmgym.learner.heads import DEFAULT_HEADS, HeadSpec
from llmgym.learner.lora import LoraSettings
from llmgym.learner.optimizer import build_optimizer, optimizer_tensors, set_model_rate
from llmgym.learner.policy import Policy, load_model, load_tokenizer
from llmgym.learner.ranks.rank import ALONE, Rank
from llmgym.learner.reference import Reference
from llmgym.learner.row import Row
from llmgym.learner.settings import OptimizerName
from llmgym.learner.threads import at_work, default_num_threads
from llmgym.learner.update import Update, run_update
from llmgym.sync import Publisher, check_canary, random_canary
from llmgym.types import Acting, Batch, Engine, FloatArray, TokenIds, Tokenizer, Trajectory, Turn

__all__ = ["Learner"]


class Learner:
    """A policy that learns: language model, adapter, heads, optimizer.

    Attributes:
        policy: the model and its heads.
        version: policy version that was published last; 0 is the model as it was loaded.
        canary: what engine and learner both score after every publication; set it to score something else.
        canary_tolerance: largest difference between them that is taken for rounding, in nats.
    """

    version: int = 0
    canary_tolerance: float = 1e-3

    def __init__(
        self,
        model: Any,
        *,
        lora: LoraSettings | None = None,
        trained: TrainedSettings | None = None,
        load_in_4bit: bool = False,
        heads: Mapping[str, HeadSpec] = DEFAULT_HEADS,
        algorithm: Algorithm | None = None,
        acting: Acting | None = None,
        learning_rate: float = 1e-4,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        optimizer: OptimizerName = "adamw",
        max_grad_norm: float | None = 0.5,
        max_tokens_per_microbatch: int = 4096,
        num_threads: int | None = None,
        seed: int = 0,
        device: str | None = None,
        eos_token_id: int | None = None,
        rank: Rank = ALONE,
    ) -> None:
        """Load a model and make it learn.

        Args:
            model: a folder, a hub id, or a transformers PreTrainedModel (of which a copy is taken).
            lora: learn an adapter of this kind; None learns the model's own weights.
            trained: which of these learn; all if None.
            load_in_4bit: pack the weights under the adapter into 4 bits (NF4): far less memory, and slower.
            heads: name to module over hidden states, or to a callable that makes one from hidden_size.
            algorithm: the loss and how often to take it; PPO by default.
            acting: how actions are drawn; the same as the engine's.
            learning_rate: of the model's weights or of its adapter.
            head_learning_rate: of the heads; learning_rate if None.
            weight_decay: at least 0; larger pulls weights to 0.
            optimizer: "adamw", or "muon", which learns a model's matrices from scratch with fewer samples.
            max_grad_norm: longest gradient that is not scaled down; None for no limit.
            max_tokens_per_microbatch: tokens of one forward pass, padding included; more needs more memory.
            num_threads: torch's threads while the learner works; all that the process may use if None or 0.
            seed: of the heads, the adapter, and the order of minibatches.
            device: where the model is put; a GPU if there is one, by default.
            eos_token_id: ends candidates that are a prefix of another, if acting is "constrained"; the model's if None.
            rank: which of the processes of a `LearnerGroup` this is; all are made with the same settings.

        Raises:
            LearnerError: the model cannot be learned with these settings.
        """
        self.acting = checked_acting(acting or Acting())
        self._num_threads = num_threads or default_num_threads()
        with at_work(self._num_threads):
            loaded = load_model(model, device=device, load_in_4bit=load_in_4bit)
            self.policy = checked_policy(Policy(loaded, heads, lora, trained=trained, seed=seed))
        self._settings = Settings(
            source=str(model) if isinstance(model, str | Path) else None,
            algorithm=algorithm or PPO(),
            acting=self.acting,
            learning_rate=learning_rate,
            head_learning_rate=learning_rate if head_learning_rate is None else head_learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            max_tokens=max_tokens_per_microbatch,
            eos_token_id=self.policy.eos_token_id if eos_token_id is None else eos_token_id,
            lora=lora,
            load_in_4bit=load_in_4bit,
            optimizer=optimizer,
            trained=trained,
        )
        self.canary = random_canary(self.policy.vocab_size, max_tokens=min(80, self.policy.max_positions))
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
    def max_context_tokens(self) -> int:
        """Longest prompt, with its action, that the model can read."""
        return self.policy.max_positions

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the model; the learner itself sees token ids only.

        Raises:
            LearnerError: the model was given as a module, or has no tokenizer beside it.
        """
        return load_tokenizer(self._settings.source)

    def set_algorithm(
        self, algorithm: Algorithm, *, learning_rate: float | None = None, optimizer: OptimizerName | None = None
    ) -> None:
        """Learn with another algorithm from now on, on the same weights, with a fresh optimizer.

        The policy is then as it is now the reference of an algorithm that wants one. Where nothing changes, optimizer
        and reference stay as they are: a resumed run goes on to the same numbers.

        Args:
            algorithm: the loss and how often to take it.
            learning_rate: of the model; as before if None.
            optimizer: which; as before if None.
        """
        before = self._settings
        self._settings = replace(
            before,
            algorithm=algorithm,
            learning_rate=before.learning_rate if learning_rate is None else learning_rate,
            optimizer=optimizer or before.optimizer,
        )
        if self._settings != before:
            self._optimizer = build_optimizer(self.policy, self._settings)
            self._reference = Reference(self.policy) if wants_reference(algorithm) else None

    def scale_learning_rate(self, factor: float) -> None:
        """Take the next steps at the model's learning rate times a factor, 0 or more: for warm-up and decay."""
        set_model_rate(self._optimizer, self._settings.learning_rate * factor)

    def values(self, trajectories: Sequence[Trajectory], *, head: str = "value") -> list[FloatArray]:
        """Return what a head says of every state of every trajectory.

        Returns:
            for each trajectory, float32 (num_units + 1,), where a unit is what the algorithm gives credit to: a turn or
            a draw; the last is the state after the last turn, from which the return is bootstrapped, and 0 where the
            last turn terminated the episode.

        Raises:
            LearnerError: there is no such head.
        """
        infer = inference.infer_draw_values if credit_of(self.algorithm) == "draw" else inference.infer_values
        with at_work(self._num_threads):
            return infer(self.policy, trajectories, head, self.acting, self._settings.max_tokens, rank=self._rank)

    def logprobs(self, turns: Sequence[Turn]) -> FloatArray:
        """Return float32 (num_turns,): the log-probability now of all that each turn drew, free tokens included."""
        with at_work(self._num_threads):
            rows, limit = self._rows(turns), self._settings.max_tokens
            return inference.infer_logprobs(self.policy, rows, turns, self.acting, limit, rank=self._rank)

    def action_logprobs(self, turns: Sequence[Turn]) -> list[FloatArray]:
        """Return, for each turn, float32 (num_candidates,): the log-probabilities actions would be drawn from now."""
        with at_work(self._num_threads):
            return inference.infer_actions(self.policy, self._rows(turns), self.acting, self._settings.max_tokens)

    def score(self, contexts: Sequence[Sequence[int]], candidates: Sequence[Sequence[TokenIds]]) -> list[FloatArray]:
        """Return log P(candidate | context), all given as token ids: float32 (num_candidates,) a context."""
        with at_work(self._num_threads):
            return inference.infer_scores(self.policy, contexts, candidates, self._settings.max_tokens)

    def update(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch: epochs of shuffled minibatches of whole episodes, a gradient step each.

        Returns:
            the algorithm's metrics (means over turns of all epochs), and loss, grad_norm (before clipping, mean of
            the steps), behaviour_gap (largest difference, in the first minibatch before its step, between an action's
            log-probability here and when it was taken: 0 where engine and learner agree), explained_variance (of the
            returns by the head "value", during the first epoch), epochs and steps.

        Raises:
            LearnerError: the batch is not usable, or a loss or gradient is not finite; its step is not taken.
        """
        settings = self._settings
        update = Update(settings.algorithm, self.acting, settings.max_tokens, settings.max_grad_norm)
        with at_work(self._num_threads):
            rows = self._rows(batch.turns)
            return run_update(
                self._gradients, self._optimizer, rows, batch, update=update, rng=self._rng, reference=self._reference
            )

    def publish(self, engine: Engine, *, version: int | None = None) -> dict[str, float]:
        """Swap the weights into a running engine, and check on the canary that it holds them.

        Args:
            engine: who takes them.
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
            heads: the same as when it was saved; may be left out where all are `ValueHead`.
            algorithm: the same as when it was saved; may be left out where it is one of llmgym's.
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

    def _rows(self, turns: Sequence[Turn]) -> list[Row]:
        """Pack turns with their candidates, as actions are drawn among them."""
        return inference.pack_turns(self.policy, turns, self.acting, self._settings.eos_token_id)
