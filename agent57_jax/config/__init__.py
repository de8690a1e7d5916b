"""Every setting of a run: typed, validated, frozen.

A config file returns a mutable `Settings`; overrides change it; `finalise` reports all problems at once and freezes it.
"""

from agent57_jax.config.serialisation import changed, finalise, from_dict, read_json, to_json, typed
from agent57_jax.config.settings import (
    INCIDENTAL_SETTINGS,
    ActorSettings,
    BanditSettings,
    Bootstrap,
    CheckpointSettings,
    Chooser,
    Combination,
    DiscountLadder,
    Embedding,
    EnvironmentKind,
    EnvironmentSettings,
    EvaluationArm,
    EvaluationSettings,
    FirstPriority,
    IntrinsicReward,
    LearnerSettings,
    LoggingSettings,
    NetworkSettings,
    NormalisedErrors,
    NoveltySettings,
    PolicySettings,
    Precision,
    PrecisionSettings,
    ReplaySettings,
    RewardInputs,
    Section,
    Settings,
    SettingsError,
    Targets,
    Torso,
    Transform,
    VideoSettings,
    flatten,
    to_dict,
)
from agent57_jax.config.validation import MAX_INT, MAX_SEED, device_problems, problems
