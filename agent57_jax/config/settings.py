"""Every setting of a run, typed, with the papers' numbers as defaults. Derived numbers are computed here and nowhere else.

PAPER means Agent57 App. G.3 unless a comment says otherwise. Annotations must stay real types: the override parser reads them at run time,
so this module does without postponed evaluation.
"""

import dataclasses
import difflib
import enum
from typing import Any

# Settings that do not change what a run learns: how it is watched and kept, and on how much of a machine it runs.
INCIDENTAL_SETTINGS = ("num_devices", "logging.", "checkpoint.", "video.", "environment.num_threads")


class SettingsError(ValueError):
    """Settings that cannot work; the message lists every problem, one a line."""


class EnvironmentKind(enum.Enum):
    """Which adapter builds the environments."""

    ENVPOOL = "envpool"
    GYMNASIUM = "gymnasium"
    RANDOM_COIN = "random_coin"
    DISCO_MAZE = "disco_maze"
    SHIFTING_CORRIDOR = "shifting_corridor"


class Torso(enum.Enum):
    """First layers of every network, by the kind of observation."""

    CONVOLUTIONS = "convolutions"
    DENSE = "dense"


class DiscountLadder(enum.Enum):
    """Which paper's discounts the family has."""

    AGENT57 = "agent57"
    NGU = "ngu"


class Chooser(enum.Enum):
    """Who picks the policy of an episode."""

    BANDIT = "bandit"
    FIXED = "fixed"


class EvaluationArm(enum.Enum):
    """Whose bandits say which arm a greedy episode of the evaluator plays. Without bandits it is policy 0."""

    OWN = "own"  # the evaluator's: its best mean
    ACTORS = "actors"  # those of all actors: the best lower bound; the evaluator's own as long as they have seen no episode


class Combination(enum.Enum):
    """How extrinsic and intrinsic action values are added (Agent57 App. B)."""

    IDENTITY = "identity"
    SQUASHED = "squashed"


class IntrinsicReward(enum.Enum):
    """What the intrinsic reward is made of."""

    NGU = "ngu"  # episodic novelty, modulated by life-long novelty
    LIFELONG = "lifelong"  # random network distillation alone
    NONE = "none"  # no intrinsic reward: nothing of novelty is computed, learnt or stored


class Embedding(enum.Enum):
    """Where the embedding of episodic novelty comes from."""

    LEARNT = "learnt"  # controllable states, by inverse dynamics
    RANDOM = "random"  # as it was initialised, for comparison (NGU §4.1)


class FirstPriority(enum.Enum):
    """Priority with which a new sequence enters the replay."""

    LARGEST = "largest"  # the largest that the learner has written so far
    ACTOR = "actor"  # of the actor's own TD errors (Agent57 §2, Ape-X, R2D2)


class Targets(enum.Enum):
    """Targets of the value functions."""

    RETRACE = "retrace"
    SOFT_WATKINS = "soft_watkins"  # Q(lambda) that goes on behind actions nearly as good as the greedy one (MEME)
    N_STEP = "n_step"  # n-step double Q-learning (R2D2)


class Bootstrap(enum.Enum):
    """Whose values stand for what comes after a return's rewards."""

    TARGET = "target"  # the target network's
    ONLINE = "online"  # those of the network that learns; the target network then only holds its steps back, by the trust region (MEME)


class Transform(enum.Enum):
    """Value transform of the learning targets."""

    SQUASHED = "squashed"
    IDENTITY = "identity"


class RewardInputs(enum.Enum):
    """Scale of the rewards that the Q-networks see beside the observation."""

    RAW = "raw"
    LOGARITHMIC = "logarithmic"  # sign(r) log(1 + |r|)


class NormalisedErrors(enum.Enum):
    """Where TD errors are divided by their deviation, per policy and value function (MEME)."""

    NOWHERE = "nowhere"
    PRIORITIES = "priorities"
    EVERYWHERE = "everywhere"  # in priorities and losses


class Precision(enum.Enum):
    """Number format inside torso and LSTM; parameters, targets and losses are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Section:
    """A part of the settings. A name that it does not have, and after `freeze` any assignment, raises SettingsError."""

    def __setattr__(self, name: str, value: Any) -> None:
        names = type(self).__annotations__
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise SettingsError(f"{type(self).__name__} has no setting '{name}'. Did you mean {nearest[0]}?")
        if self.__dict__.get("_frozen"):
            raise SettingsError(f"settings are frozen after start-up; '{name}' cannot be changed")
        super().__setattr__(name, value)

    def freeze(self) -> None:
        """Makes this section and its parts read-only."""
        for value in vars(self).values():
            if isinstance(value, Section):
                value.freeze()
        self.__dict__["_frozen"] = True


@dataclasses.dataclass
class EnvironmentSettings(Section):
    """The task and how many copies of it run."""

    kind: EnvironmentKind = EnvironmentKind.ENVPOOL  # which adapter builds the environments
    task_id: str = "Zaxxon-v5"  # EnvPool's name; gymnasium: an id or "module:name"; unused by the grid worlds
    num_envs: int = 256  # PAPER: 256 actors; all groups together
    num_groups: int = 2  # host environments act in turn: one group's emulators run while the device acts for another; grid worlds: 1
    num_threads: int | None = None  # emulator threads of a group (gymnasium: processes); None: from CPU affinity and container limits
    max_episode_steps: int = 27_000  # NGU App. F.4: 30 minutes at 4 frames a step; but for Atari, a shorter limit of the task stays
    action_repeat_frames: int = 4  # Atari: frames per agent step, maximum over the last two
    noop_max: int = 30  # Atari: up to so many random no-ops at the start
    repeat_action_probability: float = 0.0  # Atari: sticky actions, off in the papers
    frame_size: int = 84  # Atari: pixels a side of an observation (NGU App. F.4: 84)
    grid_size: int = 15  # grid worlds: cells a side (Agent57 §4.2: 15; NGU §4.1: 21)
    phase_steps: int = 10_000  # shifting corridor: steps of one environment between two changes of its time limit


@dataclasses.dataclass
class NetworkSettings(Section):
    """Sizes of the networks (Agent57 App. F)."""

    torso: Torso = Torso.CONVOLUTIONS  # first layers: by the kind of observation
    conv_features: tuple[int, ...] = (32, 64, 64)  # images: channels of each convolution
    conv_kernels: tuple[int, ...] = (8, 4, 3)  # images: pixels a side of each kernel
    conv_strides: tuple[int, ...] = (4, 2, 1)  # images: pixels between two places of each kernel
    dense_features: tuple[int, ...] = (256, 256)  # vector observations only, Choice
    torso_size: int = 512  # dense layer between torso and LSTM
    lstm_size: int = 512  # hidden units of the recurrent layer
    head_size: int = 512  # hidden units of each duelling head
    output_scale: float = 1.0  # factor of the last layers' first weights; small: all values begin near 0, Choice
    shared_torso: bool = False  # True: one torso for all value functions; layers behind it stay separate (MEME shares it)
    policy_heads: bool = False  # True: one network whose last layers give the values of all policies at once; j is no input (MEME)
    reward_inputs: RewardInputs = RewardInputs.RAW  # scale of r^e_t and r^i_t as inputs of the LSTM; logarithmic: Choice


@dataclasses.dataclass
class PolicySettings(Section):
    """The family of policies (NGU App. A, Agent57 App. G.1)."""

    num_policies: int = 32  # N; PAPER: 32
    beta_max: float = 0.3  # largest weight of the intrinsic reward; the only weight when num_policies is 1
    discounts: DiscountLadder = DiscountLadder.AGENT57  # whose ladder of discounts the family has
    gamma_0: float = 0.9999  # Agent57 ladder: the exploitative policy
    gamma_1: float = 0.997  # Agent57 ladder: policy 7; NGU ladder: the exploitative policy
    gamma_2: float = 0.99  # both ladders: the most exploratory policy
    separate_networks: bool = True  # False: one value function learns r^e + beta_j r^i (NGU); with policy_heads both have one network
    combination: Combination = Combination.IDENTITY  # how acting adds extrinsic and intrinsic values (Agent57 App. B)


@dataclasses.dataclass
class BanditSettings(Section):
    """The meta-controller (Agent57 §3.2, §4, App. D)."""

    chooser: Chooser = Chooser.BANDIT  # who picks the policy of an episode
    window_episodes: int = 160  # tau: past episodes that count (Agent57 §4)
    exploration: float = 0.5  # probability of a uniform arm
    ucb_bonus: float = 1.0  # factor of sqrt(1 / count)
    group_size: int = 1  # actors that share one bandit; 1 = the paper


@dataclasses.dataclass
class ActorSettings(Section):
    """How actors explore and how fresh their parameters are."""

    epsilon_base: float = 0.4  # actor l explores with base^(1 + alpha l / (L - 1)) (Ape-X; PAPER)
    epsilon_alpha: float = 8.0  # the alpha of that; 0 gives all actors the base
    refresh_period: int = 1  # dispatches (acts of one group, or scans) between refreshes; 1 = current (Deviation); the paper: 100 steps
    acts_per_dispatch: int = 16  # JAX environments: acts in one device program


@dataclasses.dataclass
class NoveltySettings(Section):
    """Episodic and life-long novelty (NGU §2, App. A)."""

    reward: IntrinsicReward = IntrinsicReward.NGU  # what the intrinsic reward is made of
    embedding: Embedding = Embedding.LEARNT  # where controllable states come from
    embedding_size: int = 32  # D: numbers in a controllable state
    inverse_hidden_size: int = 128  # hidden units of the inverse dynamics
    distillation_size: int = 128  # outputs of the random network and its predictor
    num_neighbours: int = 10  # K: nearest memories that are compared (NGU Alg. 1)
    memory_capacity: int = 30_000  # embeddings per environment
    kernel_epsilon: float = 1e-4  # eps of the inverse kernel (NGU Alg. 1)
    cluster_distance: float = 8e-3  # xi: normalised distances below it count as 0 (NGU Alg. 1)
    pseudo_count: float = 1e-3  # c: added to the similarity (NGU Alg. 1)
    max_similarity: float = 8.0  # s_m: beyond it the episodic reward is 0 (NGU Alg. 1)
    max_factor: float = 5.0  # L; 1 switches life-long novelty off
    ends_with_episode: bool = True  # False: an end ends only the extrinsic return (Burda et al. 2018); no effect on one network
    statistics_horizon: float = 1e6  # values after which old ones fade from running statistics, Choice
    train_timesteps: int = 5  # last transitions of a sequence that train embedding and distillation (NGU App. A)


@dataclasses.dataclass
class ReplaySettings(Section):
    """The circular prioritised sequence replay."""

    capacity: str = "auto"  # timesteps of all environments together, or "auto": what fits, up to auto_limit
    auto_limit: int = 5_000_000  # PAPER: timesteps that "auto" takes at most
    burn_in: int = 0  # transitions before the trace that only bring the recurrent state up to date (R2D2 §3)
    trace: int = 160  # transitions in a sequence that are learnt from
    period: int = 80  # timesteps between starts of sequences
    min_sequences: int = 6_250  # learning starts when so many are stored
    samples_per_insert: float = 1.5  # times that an inserted sequence is sampled; follows from PAPER's rates
    priority_exponent: float = 0.9  # sequences are drawn in proportion to priority^exponent (R2D2 §2.3); 0: uniformly
    is_exponent: float = 0.0  # importance sampling
    eta: float = 0.9  # priority: weight of the maximum against the mean
    first_priority: FirstPriority = FirstPriority.LARGEST  # of a new sequence; the papers: actor

    @property
    def span(self) -> int:
        """Transitions of a stored sequence."""
        return self.burn_in + self.trace


@dataclasses.dataclass
class LearnerSettings(Section):
    """Losses and optimisers."""

    batch_size: int = 64  # sequences, over all devices
    learning_rate: float = 1e-4  # of the value functions
    final_rate_share: float = 1.0  # learning rates fall linearly to this share of themselves at total_steps; 1: constant (PAPER)
    novelty_learning_rate: float = 5e-4  # embedding and distillation
    adam_b1: float = 0.9  # fading of the mean gradient
    adam_b2: float = 0.999  # fading of the mean squared gradient
    adam_epsilon: float = 1e-4  # added to the root of the mean square; R2D2: 1e-3
    weight_decay: float = 0.0  # AdamW: share of every parameter that a step of learning rate 1 takes away (MEME: 0.05); 0: Adam
    max_gradient_norm: float = 40.0  # longer gradients are scaled down to it, each network for itself
    targets: Targets = Targets.RETRACE  # what values are learnt towards
    bootstrap: Bootstrap = Bootstrap.TARGET  # whose values returns are bootstrapped from (MEME: online)
    trust_region: float = 0.0  # alpha: values alpha sigma off the target network's move no further (MEME: 2); 0: off
    trace_lambda: float = 0.95  # Retrace and soft Watkins
    trace_tolerance: float = 0.01  # kappa of soft Watkins: how much worse, as a share of a value, still counts as greedy (MEME)
    n_step: int = 5  # n-step double Q-learning: rewards in a target (R2D2)
    transform: Transform = Transform.SQUASHED  # h of the targets (NGU App. E)
    target_epsilon: float = 0.01  # exploration of the target policy
    target_period_updates: int = 1_500  # updates between copies of the online to the target network
    target_rate: float = 0.0  # target network as a moving average: step of each update towards the online one (MEME: 0.01); 0: copies
    average_decay: float = 0.0  # what an update keeps of the average of the Q-networks that the evaluator plays; 0: the newest
    embedding_l2: float = 1e-5  # L2 weight of embedding and inverse dynamics
    intrinsic_loss_weight: float = 1.0  # factor of the intrinsic value function's loss in what both train: a shared torso; Choice
    cross_mixture: float = 0.0  # share of sequences that train another policy than the one that acted (MEME: 0.5)
    normalise_errors: NormalisedErrors = NormalisedErrors.NOWHERE  # where TD errors are divided by their deviation
    combined_loss: bool = False  # True: the two value functions have one loss, on Q^e + beta_j Q^i with r^e + beta_j r^i (MEME)
    distil_policy: bool = False  # True: a policy is distilled from the values; its argmax acts, and targets are about it (MEME)
    policy_epsilon: float = 1e-4  # distilled policy: share of uniform actions in what it is trained towards (MEME)
    policy_kl_limit: float = 0.5  # distilled policy: it is trained where KL(target network's || its own) is at most this (MEME)
    policy_temperature: float = 0.25  # distilled policy: targets are about softmax(log pi / temperature) (MEME)


@dataclasses.dataclass
class EvaluationSettings(Section):
    """The evaluator (Agent57 §4, App. D): bandit episodes in turn with blocks of greedy ones, whose mean return is the score."""

    num_envs: int = 8  # environments of its own
    period_acts: int = 4  # acts of a training group between two acts of the evaluator
    epsilon: float = 0.01  # share of random actions
    window_episodes: int = 3_600  # tau of the evaluator's bandit
    exploration: float = 0.01  # probability of a uniform arm of the evaluator's bandit
    greedy_episodes: int = 5  # greedy episodes after each bandit episode
    arm: EvaluationArm = EvaluationArm.OWN  # whose bandits greedy episodes ask; actors: for short runs, Choice; no effect without bandits


@dataclasses.dataclass
class CheckpointSettings(Section):
    """When and what to save."""

    period_seconds: float = 600.0  # between two checkpoints, Choice
    keep: int = 2  # checkpoints that stay; older ones are removed, Choice
    save_replay: bool = True  # False: smaller checkpoints, and a resumed run fills the replay anew before it learns


@dataclasses.dataclass
class LoggingSettings(Section):
    """Panel, metrics.jsonl and dashboards."""

    period_seconds: float = 10.0  # between two lines of metrics, Choice
    tensorboard: bool = True  # also write TensorBoard files to tensorboard/
    wandb: bool = False  # Weights & Biases too; needs the extra `wandb` and an account, or WANDB_MODE=offline
    wandb_project: str = "agent57_jax"  # project there


@dataclasses.dataclass
class VideoSettings(Section):
    """Recorded episodes of the first evaluation environment, for videos/ and TensorBoard; they need the extra "video"."""

    period_episodes: int = 20  # of so many episodes of that environment the first is recorded, Choice; 0 = none
    keep: int = 50  # newest files that stay


@dataclasses.dataclass
class PrecisionSettings(Section):
    """Number formats."""

    compute: Precision = Precision.FLOAT32  # inside torso and LSTM; the rest is float32


@dataclasses.dataclass
class Settings(Section):
    """All of it. Defaults are Agent57 on one Atari game with the paper's numbers."""

    seed: int = 0  # of parameters, actions, sampling and environments; below 2^32, all that a key of JAX holds
    total_steps: int = 22_500_000_000  # agent steps of all environments; PAPER: 90e9 frames
    num_devices: int | None = None  # None: all that JAX sees
    environment: EnvironmentSettings = dataclasses.field(default_factory=EnvironmentSettings)
    network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
    policy: PolicySettings = dataclasses.field(default_factory=PolicySettings)
    bandit: BanditSettings = dataclasses.field(default_factory=BanditSettings)
    actor: ActorSettings = dataclasses.field(default_factory=ActorSettings)
    novelty: NoveltySettings = dataclasses.field(default_factory=NoveltySettings)
    replay: ReplaySettings = dataclasses.field(default_factory=ReplaySettings)
    learner: LearnerSettings = dataclasses.field(default_factory=LearnerSettings)
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    logging: LoggingSettings = dataclasses.field(default_factory=LoggingSettings)
    video: VideoSettings = dataclasses.field(default_factory=VideoSettings)
    precision: PrecisionSettings = dataclasses.field(default_factory=PrecisionSettings)

    @property
    def envs_per_group(self) -> int:
        """E: environments that one act step serves."""
        return self.environment.num_envs // self.environment.num_groups

    @property
    def num_values(self) -> int:
        """V: value functions, extrinsic and intrinsic or one for both."""
        return 2 if self.policy.separate_networks else 1

    @property
    def num_networks(self) -> int:
        """W: recurrent networks, one for each value function or one for all."""
        return 1 if self.network.policy_heads else self.num_values

    @property
    def is_host_environment(self) -> bool:
        """Whether environments step outside JAX."""
        return self.environment.kind in (EnvironmentKind.ENVPOOL, EnvironmentKind.GYMNASIUM)

    @property
    def asks_actors(self) -> bool:
        """Whether greedy episodes play what the actors' bandits say."""
        return self.evaluation.arm is EvaluationArm.ACTORS and self.bandit.chooser is Chooser.BANDIT

    @property
    def requested_capacity(self) -> int | None:
        """Timesteps of replay that were asked for; None for "auto"."""
        return None if self.replay.capacity == "auto" else int(self.replay.capacity)

    def capacity_per_env(self, timesteps: int) -> int:
        """C: slots per environment when all environments together may hold `timesteps`; a multiple of the period."""
        return timesteps // self.environment.num_envs // self.replay.period * self.replay.period

    @property
    def total_updates(self) -> float:
        """Updates of a whole run, about: timesteps at the start of episodes and the wait for the first sequences are left out."""
        return self.total_steps / self.replay.period * self.replay.samples_per_insert / self.learner.batch_size

    @property
    def min_capacity(self) -> int:
        """Fewest timesteps with which learning can start: `min_sequences` complete ones beside those that are being written."""
        per_env = -(-self.replay.min_sequences // self.environment.num_envs)
        # One period more than the sequences span: while the oldest is overwritten, as many must remain.
        slots = -(-(per_env * self.replay.period + self.replay.span) // self.replay.period) * self.replay.period
        return self.environment.num_envs * slots


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain values of a section, ready for JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return value.value if isinstance(value, enum.Enum) else list(value) if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(settings)
    return result


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of `to_dict`'s nested form."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
