"""GLAM's protocol (Carta et al. 2023, https://arxiv.org/abs/2302.02662): its training tasks and its five tests.

Words, counts and seeds are those of the authors' code (https://github.com/flowersteam/Grounding_LLMs_with_online_RL).
"""

from __future__ import annotations

from llmgym.envs.babyai import translate_mission
from llmgym.errors import ConfigError
from llmgym.run.protocols.task import Protocol, ProtocolOptions, PublishedRow, Task
from llmgym.text.prompt import PromptSettings
from llmgym.text.rewording import Rewording
from llmgym.types import Acting

__all__ = ["PROTOCOL"]

MIXED = "llmgym/BabyAI-MixedTrainLocal-v0"
EPISODES, NUM_SEEDS, NUM_ENVS = 1000, 2, 32
SEED_STRIDE = 10**9
"""Environment k of repetition s begins with seed 10^9 s + k."""

NOUNS = {"key": "chair", "ball": "table", "box": "car"}
COLORS = {
    "red": "vermilion",
    "green": "jade",
    "blue": "cyan",
    "purple": "violet",
    "yellow": "golden",
    "grey": "silver",
}
INVENTED = {
    "key": "dax",
    "ball": "xolo",
    "box": "afze",
    "red": "faze",
    "green": "jatu",
    "blue": "croh",
    "purple": "vurst",
    "yellow": "gakul",
    "grey": "sil",
}
SYNONYMS = {
    "turn left": "rotate left",
    "turn right": "rotate right",
    "go forward": "move ahead",
    "pick up": "take",
    "drop": "release",
    "toggle": "switch",
}
FRENCH_ACTIONS = {
    "turn left": "tourner à gauche",
    "turn right": "tourner à droite",
    "go forward": "aller tout droit",
    "pick up": "attraper",
    "drop": "lâcher",
    "toggle": "basculer",
}
_WINDOW = PromptSettings(history="window")


def _make_tasks(options: ProtocolOptions) -> tuple[Task, ...]:
    if options.env is not None or options.env_settings:
        raise ConfigError(
            "Expected no --env and no --env-set with --protocol glam, which plays levels of its own. Leave them out; "
            "--task picks among its tasks."
        )
    if options.first_episode:
        raise ConfigError(
            f"Expected no --seed with --protocol glam, found {options.first_episode}: its seeds are 1, 2, ... "
            "Set --seeds to say how many."
        )
    num_seeds = NUM_SEEDS if options.num_seeds is None else options.num_seeds
    first_seeds = tuple(SEED_STRIDE * (1 + index) for index in range(num_seeds))

    def task(
        name: str,
        label: str,
        env: str = MIXED,
        rewording: Rewording = Rewording(),  # noqa: B008  (it is frozen)
        prompt: PromptSettings = _WINDOW,
    ) -> Task:
        return Task(
            name=name,
            label=label,
            env=env,
            episodes=EPISODES if options.episodes is None else options.episodes,
            first_seeds=first_seeds,
            num_envs=NUM_ENVS if options.num_envs is None else options.num_envs,
            prompt=prompt,
            acting=Acting(how="score"),
            temperature=1.0 if options.temperature is None else options.temperature,
            rewording=rewording,
            counts="first",
        )

    composition = "llmgym/BabyAI-PickUpSeqPickUpLocal-v0"
    french = PromptSettings(history="window", language="french")
    tasks = (
        task("training", "(a) the training tasks, no change"),
        task("nouns", "(b) out-of-vocabulary nouns: chair, table, car", rewording=Rewording(NOUNS)),
        task("invented", "(c) invented nouns and adjectives: dax, faze, ...", rewording=Rewording(INVENTED)),
        task("composition", "(d) new composition: pick up, then pick up", composition),
        task("synonyms", "(e) synonym actions: rotate left, take, ...", rewording=Rewording(actions=SYNONYMS)),
        task("french", "(f) go to, in French", "llmgym/BabyAI-GoToFrench-v0", _french(), french),
    )
    more = (
        task("adjectives", "out-of-vocabulary adjectives: vermilion, jade, ...", rewording=Rewording(COLORS)),
        task("goto", "go to, in English: what (f) is to be compared with", "llmgym/BabyAI-GoToLocal-v0"),
    )
    return (*tasks, *more) if options.tasks else tasks


def _french() -> Rewording:
    """Return the French missions and actions; sentences are French by the environment itself."""
    nouns, colors = ("key", "ball", "box"), ("red", "green", "blue", "purple", "yellow", "grey")
    missions = [f"go to {article} {color} {noun}" for article in ("the", "a") for color in colors for noun in nouns]
    return Rewording({mission: translate_mission(mission) for mission in missions}, FRENCH_ACTIONS)


_MEASURED = "bars of the paper's Fig. 4, read to ±0.01; 1000 episodes, 2 seeds"
_NAMES = ("training", "nouns", "invented", "composition", "synonyms", "french")
_TRAINED = "trained on MixedTrainLocal, 1.5 M env steps; (f) on GoToLocal"


def _published(policy: str, training: str, *rates: float) -> PublishedRow:
    return PublishedRow(policy, training, dict(zip(_NAMES, rates, strict=True)), _MEASURED)


PROTOCOL = Protocol(
    name="glam",
    description="GLAM (Carta et al. 2023): the training tasks and five tests of generalisation",
    make_tasks=_make_tasks,
    spread="seeds",
    confidence=0.99,
    has_total=False,
    counting=(
        "The first episodes to end in 32 environments that go on forever count, so short episodes count more often "
        "than long ones, and every environment keeps the kind of mission that it drew first. Actions are sampled."
    ),
    published=(
        _published("GFlan-T5 (780 M)", _TRAINED, 0.89, 0.87, 0.77, 0.12, 0.12, 0.01),
        _published("NPAE-Flan-T5", _TRAINED, 0.17, 0.16, 0.16, 0.06, 0.16, 0.30),
        _published("DRRN", _TRAINED, 0.14, 0.15, 0.16, 0.06, 0.17, 0.31),
        _published("Flan-T5 (780 M)", "zero-shot", 0.11, 0.09, 0.11, 0.02, 0.01, 0.03),
        _published("random", "not trained", 0.15, 0.15, 0.15, 0.05, 0.15, 0.30),
    ),
)
