"""Every setting of a run, typed, with the papers' numbers as defaults, and all numbers derived from them.

PAPER means Agent57 App. G.3 unless a comment says otherwise. The override parser reads annotations at run time, so this module must not
postpone their evaluation.
"""

import dataclasses
import difflib
import enum
from typing import Any

# Settings that do not change what a run learns.
INCIDENTAL_SETTINGS = ("num_devices", "logging.", "checkpoint.", "video.", "environment.num_threads")


class SettingsError(ValueError):
    """Invalid settings; the message has one line per problem."""


class EnvironmentKind(enum.Enum):
    """Which adapter builds the environments."""

    ENVPOOL = "envpool"
    GYMNASIUM = "gymnasium"
    RANDOM_COIN = "random_coin"
    DISCO_MAZE = "disco_maze"
    SHIFTING_CORRIDOR = "shifting_corridor"


class Torso(enum.Enum):
    """The first layers of every network: convolutions for images, dense layers for vectors."""

    CONVOLUTIONS = "convolutions"
    DENSE = "dense"


class DiscountLadder(enum.Enum):
    """The paper whose discounts the family has."""

    AGENT57 = "agent57"
    NGU = "ngu"


class Chooser(enum.Enum):
    """Who picks the policy of an episode."""

    BANDIT = "bandit"
    FIXED = "fixed"


class EvaluationArm(enum.Enum):
    """The bandits that choose the arm of greedy evaluation episodes. Without bandits it is policy 0."""

    OWN = "own"  # the evaluator's: its best mean
    ACTORS = "actors"  # all actors': the best lower bound; the evaluator's own until they have recorded an episode


class Combination(enum.Enum):
    """How extrinsic and intrinsic action values are added (Agent57 App. B)."""

    IDENTITY = "identity"
    SQUASHED = "squashed"


class IntrinsicReward(enum.Enum):
    """The kind of intrinsic reward."""

    NGU = "ngu"  # episodic novelty times life-long novelty
    LIFELONG = "lifelong"  # only random network distillation
    NONE = "none"  # no intrinsic reward, and no part of novelty is computed


class Embedding(enum.Enum):
    """The embedding of episodic novelty."""

    LEARNT = "learnt"  # controllable states, trained by inverse dynamics
    RANDOM = "random"  # the untrained network, for comparison (NGU §4.1)


class FirstPriority(enum.Enum):
    """The priority of a new sequence."""

    LARGEST = "largest"  # the largest that the learner has written so far
    ACTOR = "actor"  # from the actor's TD errors (Agent57 §2, Ape-X, R2D2)


class Targets(enum.Enum):
    """Targets of the value functions."""

    RETRACE = "retrace"
    SOFT_WATKINS = "soft_watkins"  # Q(lambda) whose traces continue past nearly greedy actions (MEME)
    N_STEP = "n_step"  # n-step double Q-learning (R2D2)


class Bootstrap(enum.Enum):
    """The network that bootstraps returns."""

    TARGET = "target"  # the target network
    ONLINE = "online"  # the online network; the target network then only defines the trust region (MEME)


class Transform(enum.Enum):
    """Value transform of the learning targets."""

    SQUASHED = "squashed"
    IDENTITY = "identity"


class RewardInputs(enum.Enum):
    """Scale of the rewards among the Q-networks' inputs."""

    RAW = "raw"
    LOGARITHMIC = "logarithmic"  # sign(r) log(1 + |r|)


class NormalisedErrors(enum.Enum):
    """Where TD errors are divided by their standard deviation, per policy and value function (MEME)."""

    NOWHERE = "nowhere"
    PRIORITIES = "priorities"
    EVERYWHERE = "everywhere"  # in priorities and losses


class Precision(enum.Enum):
    """Number format inside torso and LSTM; parameters, targets and losses are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Section:
    """A part of the settings. Assigning an unknown name, or anything after `freeze`, raises SettingsError."""

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

    kind: EnvironmentKind = EnvironmentKind.ENVPOOL  # the adapter
    task_id: str = "Zaxxon-v5"  # EnvPool's name; gymnasium: an id or "module:name"; not used by grid worlds
    num_envs: int = 256  # over all groups; PAPER: 256 actors
    num_groups: int = 2  # groups of host environments, of which one's emulators run while the device acts for another; grid worlds: 1
    num_threads: int | None = None  # emulator threads per group (gymnasium: processes); None: from CPU affinity and container limits
    max_episode_steps: int = 27_000  # time limit; NGU App. F.4: 30 minutes at 4 frames per step; outside Atari a task's shorter limit stays
    action_repeat_frames: int = 4  # Atari: frames per agent step; observations are the maximum of the last two
    noop_max: int = 30  # Atari: maximum number of random no-ops at the start
    repeat_action_probability: float = 0.0  # Atari: sticky actions; 0 in the papers
    frame_size: int = 84  # Atari: side of an observation in pixels (NGU App. F.4: 84)
    grid_size: int = 15  # grid worlds: side in cells (Agent57 §4.2: 15; NGU §4.1: 21)
    phase_steps: int = 10_000  # shifting corridor: steps of an environment between two changes of its time limit


@dataclasses.dataclass
class NetworkSettings(Section):
    """Sizes of the networks (Agent57 App. F)."""

    torso: Torso = Torso.CONVOLUTIONS  # first layers, according to the observation
    conv_features: tuple[int, ...] = (32, 64, 64)  # images: channels of each convolution
    conv_kernels: tuple[int, ...] = (8, 4, 3)  # images: side of each kernel in pixels
    conv_strides: tuple[int, ...] = (4, 2, 1)  # images: stride of each kernel in pixels
    dense_features: tuple[int, ...] = (256, 256)  # vectors: units of each layer, Choice
    torso_size: int = 512  # units of the dense layer between torso and LSTM
    lstm_size: int = 512  # hidden units of the LSTM
    head_size: int = 512  # hidden units of each duelling head
    output_scale: float = 1.0  # factor of the last layers' initial weights; a small one starts all values near 0, Choice
    shared_torso: bool = False  # True: one torso for all value functions; the other layers stay separate (MEME shares it)
    policy_heads: bool = False  # True: one network with an output head per policy, and without j as an input (MEME)
    reward_inputs: RewardInputs = RewardInputs.RAW  # scale of r^e_t and r^i_t as LSTM inputs; logarithmic: Choice


@dataclasses.dataclass
class PolicySettings(Section):
    """The family of policies (NGU App. A, Agent57 App. G.1)."""

    num_policies: int = 32  # N; PAPER: 32
    beta_max: float = 0.3  # largest weight of the intrinsic reward; the only one when num_policies is 1
    discounts: DiscountLadder = DiscountLadder.AGENT57  # ladder of discounts
    gamma_0: float = 0.9999  # Agent57 ladder: the exploitative policy
    gamma_1: float = 0.997  # Agent57 ladder: policy 7; NGU ladder: the exploitative policy
    gamma_2: float = 0.99  # both ladders: the most exploratory policy
    separate_networks: bool = True  # False: one value function learns r^e + beta_j r^i (NGU); with policy_heads two values, one network
    combination: Combination = Combination.IDENTITY  # how the policy combines extrinsic and intrinsic values (Agent57 App. B)


@dataclasses.dataclass
class BanditSettings(Section):
    """The meta-controller (Agent57 §3.2, §4, App. D)."""

    chooser: Chooser = Chooser.BANDIT  # what selects the policy of an episode
    window_episodes: int = 160  # tau: past episodes that count (Agent57 §4)
    exploration: float = 0.5  # probability of a uniformly random arm
    ucb_bonus: float = 1.0  # factor of sqrt(1 / count)
    group_size: int = 1  # actors that share a bandit; the paper: 1


@dataclasses.dataclass
class ActorSettings(Section):
    """How actors explore and how fresh their parameters are."""

    epsilon_base: float = 0.4  # actor l has epsilon base^(1 + alpha l / (L - 1)) (Ape-X; PAPER)
    epsilon_alpha: float = 8.0  # alpha in that formula; 0: all actors have the base
    refresh_period: int = 1  # dispatches (acts of a group, or scans) between parameter refreshes; 1 (Deviation); the paper: 100 steps
    acts_per_dispatch: int = 16  # JAX environments: acts per device program


@dataclasses.dataclass
class NoveltySettings(Section):
    """Episodic and life-long novelty (NGU §2, App. A)."""

    reward: IntrinsicReward = IntrinsicReward.NGU  # kind of intrinsic reward
    embedding: Embedding = Embedding.LEARNT  # source of the controllable states
    embedding_size: int = 32  # D: size of a controllable state
    inverse_hidden_size: int = 128  # hidden units of the inverse dynamics
    distillation_size: int = 128  # outputs of the random network and its predictor
    num_neighbours: int = 10  # K: nearest memories in the kernel (NGU Alg. 1)
    memory_capacity: int = 30_000  # embeddings per environment
    kernel_epsilon: float = 1e-4  # eps of the inverse kernel (NGU Alg. 1)
    cluster_distance: float = 8e-3  # xi: subtracted from normalised distances, which do not fall below 0 (NGU Alg. 1)
    pseudo_count: float = 1e-3  # c: added to the similarity (NGU Alg. 1)
    max_similarity: float = 8.0  # s_m: the episodic reward is 0 above it (NGU Alg. 1)
    max_factor: float = 5.0  # L: limit of the life-long factor; 1 switches it off
    ends_with_episode: bool = True  # False: episodes end only the extrinsic return (Burda et al. 2018); no effect with one value function
    statistics_horizon: float = 1e6  # values after which old ones fade from running statistics, Choice
    train_timesteps: int = 5  # last transitions of a sequence that train embedding and distillation (NGU App. A)


@dataclasses.dataclass
class ReplaySettings(Section):
    """The circular prioritised sequence replay."""

    capacity: str = "auto"  # timesteps over all environments, or "auto": as many as fit, up to auto_limit
    auto_limit: int = 5_000_000  # largest automatic capacity, timesteps (PAPER)
    burn_in: int = 0  # transitions before the trace that only update the recurrent state (R2D2 §3)
    trace: int = 160  # transitions of a sequence that are trained on
    period: int = 80  # timesteps between starts of sequences
    min_sequences: int = 6_250  # stored sequences with which learning starts
    samples_per_insert: float = 1.5  # average number of times that a sequence is sampled; follows from PAPER's rates
    priority_exponent: float = 0.9  # sampling probabilities are proportional to priority^exponent (R2D2 §2.3); 0: uniform
    is_exponent: float = 0.0  # exponent of the importance weights
    eta: float = 0.9  # priority: weight of the maximum against the mean
    first_priority: FirstPriority = FirstPriority.LARGEST  # first priority of a new sequence; the papers: actor

    @property
    def span(self) -> int:
        """Transitions in a stored sequence."""
        return self.burn_in + self.trace


@dataclasses.dataclass
class LearnerSettings(Section):
    """Losses and optimisers."""

    batch_size: int = 64  # sequences, over all devices
    learning_rate: float = 1e-4  # learning rate of the value functions
    final_rate_share: float = 1.0  # learning rates fall linearly to this share of their initial values at total_steps; 1: constant (PAPER)
    novelty_learning_rate: float = 5e-4  # learning rate of embedding and distillation
    adam_b1: float = 0.9  # decay of the mean gradient
    adam_b2: float = 0.999  # decay of the mean squared gradient
    adam_epsilon: float = 1e-4  # added to the root of the mean square; R2D2: 1e-3
    weight_decay: float = 0.0  # AdamW: share of every parameter removed by a step of learning rate 1 (MEME: 0.05); 0: Adam
    max_gradient_norm: float = 40.0  # maximum gradient norm of each network
    targets: Targets = Targets.RETRACE  # kind of targets
    bootstrap: Bootstrap = Bootstrap.TARGET  # network that bootstraps returns (MEME: online)
    trust_region: float = 0.0  # alpha: values alpha sigma away from the target network's move no further (MEME: 2); 0: off
    trace_lambda: float = 0.95  # lambda of Retrace and soft Watkins
    trace_tolerance: float = 0.01  # kappa of soft Watkins: relative loss of value up to which an action counts as greedy (MEME)
    n_step: int = 5  # n-step double Q-learning: rewards in a target (R2D2)
    transform: Transform = Transform.SQUASHED  # h of the targets (NGU App. E)
    target_epsilon: float = 0.01  # epsilon of the target policy
    target_period_updates: int = 1_500  # updates between copies of the online to the target network
    target_rate: float = 0.0  # the target network is a moving average with this step towards the online one (MEME: 0.01); 0: copies
    average_decay: float = 0.0  # decay of the averaged Q-networks that the evaluator plays; 0: it plays the newest
    embedding_l2: float = 1e-5  # L2 weight of embedding and inverse dynamics
    intrinsic_loss_weight: float = 1.0  # factor of the intrinsic values' loss; matters only for a shared torso; Choice
    cross_mixture: float = 0.0  # share of sequences that train a policy other than the one that acted (MEME: 0.5)
    normalise_errors: NormalisedErrors = NormalisedErrors.NOWHERE  # where TD errors are divided by their standard deviation
    combined_loss: bool = False  # True: the two value functions have one loss, on Q^e + beta_j Q^i with r^e + beta_j r^i (MEME)
    distil_policy: bool = False  # True: a policy distilled from the values acts and is the target policy (MEME)
    policy_epsilon: float = 1e-4  # distilled policy: share of uniform actions in its training target (MEME)
    policy_kl_limit: float = 0.5  # distilled policy: it is trained where KL(target network's || its own) is at most this (MEME)
    policy_temperature: float = 0.25  # distilled policy: the target policy is softmax(log pi / temperature) (MEME)


@dataclasses.dataclass
class EvaluationSettings(Section):
    """The evaluator (Agent57 §4, App. D): bandit episodes alternate with blocks of greedy ones, whose mean return is the score."""

    num_envs: int = 8  # environments of the evaluator
    period_acts: int = 4  # acts of a training group between two acts of the evaluator
    epsilon: float = 0.01  # share of random actions
    window_episodes: int = 3_600  # tau of the evaluator's bandit
    exploration: float = 0.01  # probability of a uniformly random arm in bandit episodes
    greedy_episodes: int = 5  # greedy episodes after each bandit episode
    arm: EvaluationArm = EvaluationArm.OWN  # bandits that choose the arm of greedy episodes; actors: for short runs, Choice


@dataclasses.dataclass
class CheckpointSettings(Section):
    """When and what to save."""

    period_seconds: float = 600.0  # seconds between two checkpoints, Choice
    keep: int = 2  # newest checkpoints to keep, Choice
    save_replay: bool = True  # False: smaller checkpoints, but a resumed run must fill the replay before it learns


@dataclasses.dataclass
class LoggingSettings(Section):
    """Panel, metrics.jsonl and dashboards."""

    period_seconds: float = 10.0  # seconds between two lines of metrics, Choice
    tensorboard: bool = True  # write TensorBoard files to tensorboard/
    wandb: bool = False  # log to Weights & Biases; needs the extra `wandb` and an account, or WANDB_MODE=offline
    wandb_project: str = "agent57_jax"  # project in Weights & Biases


@dataclasses.dataclass
class VideoSettings(Section):
    """Recorded episodes of the first evaluation environment, for videos/ and TensorBoard; needs the extra "video"."""

    period_episodes: int = 20  # episodes between two recordings, Choice; 0: none
    keep: int = 50  # newest videos to keep


@dataclasses.dataclass
class PrecisionSettings(Section):
    """Number formats."""

    compute: Precision = Precision.FLOAT32  # inside torso and LSTM; the rest is float32


@dataclasses.dataclass
class Settings(Section):
    """All settings. Defaults are Agent57 on one Atari game with the paper's numbers."""

    seed: int = 0  # seed of parameters, actions, sampling and environments; below 2^32, the range of a JAX key
    total_steps: int = 22_500_000_000  # agent steps over all environments; PAPER: 90e9 frames
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
        """E: environments per group."""
        return self.environment.num_envs // self.environment.num_groups

    @property
    def num_values(self) -> int:
        """V: number of value functions: extrinsic and intrinsic, or one for both."""
        return 2 if self.policy.separate_networks else 1

    @property
    def num_networks(self) -> int:
        """W: number of recurrent networks: one per value function, or one for all."""
        return 1 if self.network.policy_heads else self.num_values

    @property
    def is_host_environment(self) -> bool:
        """Whether environments step outside JAX."""
        return self.environment.kind in (EnvironmentKind.ENVPOOL, EnvironmentKind.GYMNASIUM)

    @property
    def asks_actors(self) -> bool:
        """Whether the actors' bandits choose the arm of greedy episodes."""
        return self.evaluation.arm is EvaluationArm.ACTORS and self.bandit.chooser is Chooser.BANDIT

    @property
    def requested_capacity(self) -> int | None:
        """Requested timesteps of replay; None for "auto"."""
        return None if self.replay.capacity == "auto" else int(self.replay.capacity)

    def capacity_per_env(self, timesteps: int) -> int:
        """C: slots per environment for a total of `timesteps`; a multiple of the period."""
        return timesteps // self.environment.num_envs // self.replay.period * self.replay.period

    @property
    def total_updates(self) -> float:
        """Approximate updates of a whole run; ignores FIRST timesteps and the wait for the first sequences."""
        return self.total_steps / self.replay.period * self.replay.samples_per_insert / self.learner.batch_size

    @property
    def min_capacity(self) -> int:
        """Smallest capacity, in timesteps, that can hold `min_sequences` complete sequences."""
        per_env = -(-self.replay.min_sequences // self.environment.num_envs)
        # One more period: while the oldest sequence is overwritten, enough others must remain.
        slots = -(-(per_env * self.replay.period + self.replay.span) // self.replay.period) * self.replay.period
        return self.environment.num_envs * slots


def to_dict(settings: Any) -> Any:
    """A section as nested plain values, ready for JSON."""
    if dataclasses.is_dataclass(settings):
        return {field.name: to_dict(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return settings.value if isinstance(settings, enum.Enum) else list(settings) if isinstance(settings, tuple) else settings


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The nested form of `to_dict` as dotted names and values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
