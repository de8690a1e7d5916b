"""The training loop: act, learn by the schedule, evaluate, report, save; resumes and stops cleanly."""

import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from agent57_jax import config, parallel, paths
from agent57_jax.agent import programs
from agent57_jax.agent.actor import ActMetrics
from agent57_jax.agent.learner import LearnerState, acting_parameters, evaluation_parameters
from agent57_jax.agent.replay import ReplayState
from agent57_jax.algorithm.meta_controller import PooledArms
from agent57_jax.config import Settings, SettingsError
from agent57_jax.monitoring import video
from agent57_jax.monitoring.console import Console
from agent57_jax.monitoring.metrics import MetricsWriter
from agent57_jax.training import assembly, folder_lock, memory, reporting, run_folder
from agent57_jax.training.checkpoint import CheckpointError, Checkpoints, DamagedCheckpointError, check_folder
from agent57_jax.training.drivers import Driver, HostDriver, SimulationDriver
from agent57_jax.training.evaluator import Episode, Evaluator
from agent57_jax.training.schedule import Counters, Requests, Schedule
from agent57_jax.training.stopwatch import Stopwatch
from agent57_jax.types import ActingParameters, HostEnvironmentError, RunError

SAVED_COUNTERS = "counters"  # keys of a checkpoint's JSON part
SAVED_APPENDED = "appended"
SAVED_CAPACITY = "capacity"


class TrainingError(RunError):
    """Training cannot go on; the message says why and which checkpoint is good."""


class LostProcessError(TrainingError):
    """Another process of this run has ended or cannot be reached."""


class Trainer:
    """One run in one folder, in one process or in several of which the first writes, shows and evaluates."""

    replay: ReplayState
    learner: LearnerState
    update_metrics: programs.UpdateMetrics
    schedule: Schedule

    def __init__(self, settings: Settings, workdir: str | os.PathLike[str], should_stop: Callable[[], bool]) -> None:
        """Builds environments, programs and states, or restores them from the folder's last checkpoint.

        Args:
          settings: finalised.
          workdir: of the run; made if missing.
          should_stop: asked at every act; True saves and ends the training.

        Raises:
          SettingsError: for settings that the task, the devices or the memory cannot serve.
          CheckpointError: for a checkpoint that does not fit the settings.
        """
        check_folder(workdir)
        self.settings, self.workdir, self.should_stop = settings, pathlib.Path(workdir), should_stop
        self.mesh = parallel.make_mesh(settings.num_devices)
        found = config.device_problems(settings, self.mesh.size)
        if found:
            raise SettingsError("\n".join(found))
        self._is_first = parallel.is_first_process()
        paths.refuse_broken_links([self.workdir, *(self.workdir / name for name in run_folder.FOLDERS)])
        self.workdir.mkdir(parents=True, exist_ok=True)
        device = f"{self.mesh.devices.flat[0].device_kind}{f' x {self.mesh.size}' if self.mesh.size > 1 else ''}"
        self.console = Console(settings.total_steps, str(self.workdir), is_shown=self._is_first, device=device)
        self.stopwatch = Stopwatch()
        self._requests = Requests(stop=False, report=False, save=False)
        self._lock = None
        try:
            if self._is_first:  # the others write only when it does
                self._lock = folder_lock.hold(self.workdir, self.console.say, should_stop)
            self.checkpoints = Checkpoints(self.workdir / "checkpoints", settings.checkpoint.keep)
            if self.checkpoints.steps():
                run_folder.refuse_other_run(self.workdir, settings)
            key_data = np.asarray(jax.random.key_data(jax.random.key(settings.seed)))
            self.root = parallel.upload(self.mesh, parallel.REPLICATED, key_data)
            if (sentence := assembly.thread_warning(settings)) is not None:
                self.console.say(sentence, warning=True)
            self._start()
        except BaseException:
            self._end()
            raise

    def _start(self) -> None:
        """Opens what the folder holds and says what that is."""
        settings = self.settings
        self.recorder: video.Recorder | None = None
        if self._is_first and settings.video.period_episodes:
            warn = functools.partial(self.console.say, warning=True)
            self.recorder = assembly.make_recorder(settings, self.workdir, lambda: self.counters.steps, warn, self._animate)
        resumed, damaged = self._open()
        self._evaluated: list[Episode] = []
        self._last_report = self._last_save = self._loop_since = time.monotonic()
        self._reported = (self.counters.frames, self.counters.steps, self.counters.updates)
        self.metrics: MetricsWriter | None = None
        if self._is_first:
            if resumed is None:
                for name in ("videos", "evaluation.json"):
                    paths.set_aside(self.workdir / name)
            run_folder.write_settings(self.workdir, settings)
            self.metrics = MetricsWriter(
                self.workdir,
                self.counters.steps if resumed is not None else None,
                settings.logging.tensorboard,
                settings.logging.wandb_project if settings.logging.wandb else None,
                config.flatten(config.to_dict(settings)),
            )
        for sentence in damaged:
            self.console.say(sentence, warning=True)
        self.console.say(
            f"resumed from checkpoint {resumed} of {self.workdir}: {self.counters.updates} updates"
            if resumed is not None
            else f"new run in {self.workdir}"
        )
        if resumed is not None and not self.checkpoints.has_item(resumed, "replay"):
            wanted = self.settings.replay.min_sequences
            self.console.say(f"checkpoint {resumed} has no replay: acting until {wanted} sequences are stored, then learning goes on")

    def run(self) -> None:
        """Trains until `total_steps` or until it should stop; either way the last thing done is a checkpoint.

        Raises:
          TrainingError: on a non-finite loss or gradient, or when an environment fails; LostProcessError when another process is gone.
        """
        has_lost = False
        try:
            self._train()
        except HostEnvironmentError as error:
            raise TrainingError(f"{error}. Last good checkpoint: {self.checkpoints.latest()} in {self.workdir}") from error
        except (jax.errors.JaxRuntimeError, ValueError, CheckpointError) as error:
            has_lost = parallel.may_have_lost_a_process(error) or (isinstance(error, CheckpointError) and jax.process_count() > 1)
            if not has_lost:
                raise
            # What failed is whatever needed the others first: a sum over the devices, a barrier of the checkpoint.
            raise LostProcessError(
                f"process {jax.process_index()} lost another one, or failed alone: {' '.join(str(error).split())[:200]}. "
                f"Start all processes again: they go on from checkpoint {self.checkpoints.latest()} in {self.workdir}"
            ) from error
        finally:
            # Files and emulators of a run that has lost a process would wait for it.
            self._end() if has_lost else self.close()

    def _train(self) -> None:
        self._ask()()
        while self.counters.steps < self.settings.total_steps and not self._requests.stop:
            self._act_and_learn()
            self._report_when_due()
        if not self._requests.stop:
            self._finish_evaluation()
        self._report()
        path = self._save()
        self.checkpoints.wait()
        self.console.say(f"{'stopped by signal' if self._requests.stop else 'finished'}; saved checkpoint {path}")

    def close(self) -> None:
        """Waits for files, ends emulators, gives the terminal back: each of them whatever the others raise."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            stack.callback(self.checkpoints.close)
            if self.metrics is not None:
                stack.callback(self.metrics.close)
            if self.recorder is not None:
                stack.callback(self.recorder.close)
            stack.callback(self._end_environments)

    def _end(self) -> None:
        """Gives back the terminal and the folder."""
        self.console.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def is_finished(self) -> bool:
        """Whether all is done, the last evaluation too, and nothing has stopped it before."""
        return self.counters.steps >= self.settings.total_steps and not self._requests.stop

    def _end_environments(self) -> None:
        self.driver.close()
        self.evaluator.close()

    def _ask(self) -> Callable[[], None]:
        """Starts to gather what the processes want; the result waits for it."""
        # One process need not ask before the act what it can see behind it.
        gathered = parallel.start_sum(self.mesh, self._wishes()) if jax.process_count() > 1 else self._wishes

        def wait() -> None:
            self._requests = Requests(*map(bool, gathered()))

        return wait

    def _wishes(self) -> Sequence[int]:
        """Fields of `Requests`. Any process may stop all, since a signal may reach only one; time is that of the first one's clock."""
        now = time.monotonic()
        report = now - self._last_report >= self.settings.logging.period_seconds
        save = now - self._last_save >= self.settings.checkpoint.period_seconds
        return self.should_stop(), self._is_first and report, self._is_first and save

    def _act_and_learn(self) -> None:
        """One group's act (or one scan of acts), the evaluator's when it is due and, behind both on the device, updates that are due."""
        counters = self.counters
        hear = self._ask()
        if counters.acts // self._acts_per_dispatch % self.settings.actor.refresh_period == 0:
            self.acting = self._current_parameters()
        self.replay = self.driver.dispatch(self.acting, self.replay, counters)
        self._start_evaluation()
        learnt = self.update_metrics.updates  # of updates that are in the queue before this act
        drawable = reporting.drawable_sequences(self.store, self.driver.appended, self.settings.envs_per_group)
        due = self.schedule.updates_due(counters, drawable)
        if due:
            self.learner, self.replay, self.update_metrics = self.programs.learn(
                self.learner, self.replay, self.update_metrics, self.root, counters.updates, due
            )
            counters.updates += due
        self.driver.complete(counters, learnt)
        self._count_evaluation()
        hear()

    def _current_parameters(self) -> ActingParameters:
        """The learner's parameters for the actors."""
        current = acting_parameters(self.learner)
        # The learner's buffers are donated by its next update; parameters that lag behind need memory of their own.
        copied: ActingParameters = current if self.settings.actor.refresh_period == 1 else self.programs.copy(current)
        return copied

    def _start_evaluation(self) -> None:
        """One act of the evaluator after every `period_acts` acts, in the first process."""
        period = self.settings.evaluation.period_acts
        acts = self.counters.acts // period - (self.counters.acts - self._acts_per_dispatch) // period
        if not acts:
            return
        pooled = self._pooled_arms()
        if self._is_first:
            for _ in range(acts):
                self._start_evaluation_act(pooled)

    def _start_evaluation_act(self, pooled: PooledArms | None) -> None:
        with self.stopwatch("evaluation"):
            self.evaluator.dispatch(evaluation_parameters(self.learner), self.driver.shared.statistics, pooled)
        self.counters.evaluation_acts = self.evaluator.acts

    def _pooled_arms(self) -> PooledArms | None:
        """What the actors' bandits say of the arms, by all processes together; None where the evaluator does not ask them."""
        if not self.settings.asks_actors:
            return None
        pooled: PooledArms = self.programs.pool_arms([state.bandit for state in self.driver.states])
        return pooled

    def _count_evaluation(self) -> None:
        with self.stopwatch("evaluation"):
            episodes = self.evaluator.complete()
        self.counters.greedy_episodes += sum(episode.is_greedy for episode in episodes)
        self._evaluated.extend(episodes)

    def _finish_evaluation(self) -> None:
        """A finished run has a score: the evaluator plays on until it has one block of greedy episodes, but not for ever."""
        evaluation = self.settings.evaluation
        # The episode that is under way, the one that teaches the bandit, and the block.
        acts = (evaluation.greedy_episodes + 2) * (self.settings.environment.max_episode_steps + 1)
        pooled = self._pooled_arms()
        while not self._requests.stop:
            wants_more = self._is_first and self.counters.greedy_episodes < evaluation.greedy_episodes
            if wants_more and not acts:
                self.console.say("there is no score: evaluation episodes last longer than environment.max_episode_steps", warning=True)
            # The others wait with the first process: they save together.
            if not any(parallel.start_sum(self.mesh, [wants_more and acts > 0])()):
                return
            acts -= 1
            hear = self._ask()
            if self._is_first:
                self._start_evaluation_act(pooled)
                self._count_evaluation()
            hear()
            self._report_when_due()

    @property
    def _acts_per_dispatch(self) -> int:
        return 1 if self.settings.is_host_environment else self.settings.actor.acts_per_dispatch

    def _report_when_due(self) -> None:
        if self._requests.report:
            self._report()
        if self._requests.save:
            self.console.say(f"saving checkpoint {self._save()}")

    def _report(self) -> None:
        """Writes one line of metrics and refreshes the console."""
        counters = self.counters
        acts, statistics, updates = jax.device_get((self.driver.shared.metrics, self.driver.shared.statistics, self.update_metrics))
        self._stop_if_not_finite(acts, updates)
        now = time.monotonic()
        counters.seconds += now - self._loop_since
        self._loop_since = self._last_report = now
        elapsed, shares = self.stopwatch.read()
        values = {
            **reporting.speed_values(self.settings, counters, self._reported, elapsed),
            **reporting.replay_values(self.store, self.driver.appended, self.settings.envs_per_group),
            "replay/max_priority": float(self.replay.max_priority),
            **reporting.time_values(elapsed, shares),
        }
        self._reported = (counters.frames, counters.steps, counters.updates)
        values |= reporting.act_values(self.parts, acts, statistics) | reporting.update_values(updates)
        values |= reporting.evaluation_values(self.parts, self._evaluated, counters.greedy_episodes) | reporting.memory_values()
        self._evaluated.clear()
        self.driver.shared = self.driver.shared._replace(metrics=self.programs.init_act_metrics())
        self.update_metrics = self.programs.init_update_metrics()
        priorities = jax.device_get(self.programs.count_priorities(self.replay))  # by all processes together
        if self.metrics is not None:
            self.metrics.write(counters.progress(), values, reporting.histograms(priorities))
        self.console.update(counters.progress(), values)

    def _stop_if_not_finite(self, acts: ActMetrics, updates: programs.UpdateMetrics) -> None:
        """Before anything is saved: what is not finite must not be what a run resumes from."""
        found = reporting.not_finite(self.parts, acts, updates, self.counters.timesteps)
        if found is not None:
            raise TrainingError(f"{found}. Last good checkpoint: {self.checkpoints.latest()} in {self.workdir}")

    def _save(self) -> str:
        """Writes a checkpoint of everything that a resumed run needs; returns its path."""
        self._stop_if_not_finite(*jax.device_get((self.driver.shared.metrics, self.update_metrics)))
        arrays = self._state()
        if not self.settings.checkpoint.save_replay:
            del arrays["replay"]
        now = time.monotonic()
        self.counters.seconds += now - self._loop_since
        self._loop_since = self._last_save = now
        self.counters.checkpoints += 1
        meta = {SAVED_COUNTERS: vars(self.counters), SAVED_APPENDED: self.driver.appended, SAVED_CAPACITY: self.capacity}
        with self.stopwatch("saving"):
            is_new = self.checkpoints.save(self.counters.checkpoints, arrays, meta)
        if not is_new:
            raise CheckpointError(f"checkpoint {self.counters.checkpoints} of {self.workdir} is there already: somebody else writes to it")
        return f"{self.workdir}/checkpoints/{self.counters.checkpoints}"

    def _open(self) -> tuple[int | None, list[str]]:
        """Builds the run from its newest checkpoint that can be read, or anew if there is none.

        Returns:
          The number of that checkpoint; a sentence for each newer one that is damaged, which is set aside.

        Raises:
          CheckpointError: if none of several can be read. A run is not begun anew over what may be mended.
        """
        steps = self.checkpoints.steps()
        found: list[tuple[int, DamagedCheckpointError]] = []
        for step in reversed(steps):
            error: DamagedCheckpointError | None = None
            try:
                self._build(step)
            except DamagedCheckpointError as damage:
                error = damage
            # What one process cannot read none of them goes on with.
            if any(parallel.start_sum(self.mesh, [error is not None])()):
                if error is None:
                    self._end_environments()
                    error = DamagedCheckpointError(f"checkpoint {step} in {self.workdir} could not be read by another process")
                found.append((step, error))
                continue
            return step, self._set_aside(found)
        if found:
            raise CheckpointError(f"no checkpoint can be read: {found[0][1]}. To begin anew choose another --workdir")
        self._build(None)
        return None, []

    def _build(self, resumed: int | None) -> None:
        """Environments, programs and states, those of a checkpoint if there is one. The table of bytes is shown before any is taken."""
        settings = self.settings
        saved = self.checkpoints.meta(resumed) if resumed is not None else {}
        self.counters = Counters(**saved.get(SAVED_COUNTERS, {}))
        self.counters.starts += 1
        environments, evaluation, simulated = assembly.make_environments(settings, self.counters.starts - 1, self.recorder is not None)
        self.parts = programs.build(settings, evaluation.spec)
        self.capacity, table = memory.plan(self.parts, self.mesh.size, saved.get(SAVED_CAPACITY))
        self.console.show(assembly.header(settings, self.mesh, self.capacity, table))
        self.store = memory.make_replay(self.parts, self.capacity)
        self.programs = programs.Programs(self.parts, self.mesh, self.store, simulated)
        self.driver: Driver = (
            SimulationDriver(self.programs, self.root, self.stopwatch)
            if simulated is not None
            else HostDriver(self.programs, environments, self.root, self.stopwatch)
        )
        evaluation_actor, num_envs = self.parts.evaluation_actor, settings.evaluation.num_envs
        self.evaluator = Evaluator(evaluation_actor, evaluation, num_envs, self.root, self.counters.evaluation_acts, self.recorder)
        self.learner = self.programs.init_learner(self.root)
        self.replay = self.programs.init_replay()
        self.update_metrics = self.programs.init_update_metrics()
        self.schedule = Schedule(settings.replay, settings.learner)
        self.acting = self._current_parameters()
        if resumed is not None:
            try:
                self._restore(resumed, saved)
            except CheckpointError:
                self._end_environments()
                raise

    def _set_aside(self, damaged: list[tuple[int, DamagedCheckpointError]]) -> list[str]:
        """Renames checkpoints that cannot be read; returns a sentence for each."""
        names = [self.checkpoints.set_aside(step).name for step, _ in damaged] if self._is_first else []
        parallel.start_sum(self.mesh, [0])()  # until the first process has renamed them
        if damaged:
            self.checkpoints.reread()
        return [f"{error}; it is now {name}" for (_, error), name in zip(damaged, names, strict=False)]

    def _restore(self, step: int, saved: dict[str, Any]) -> None:
        """Replaces the fresh states by those of a checkpoint."""
        fresh = self._state()
        if not self.checkpoints.has_item(step, "replay"):
            del fresh["replay"]
        targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), fresh)
        if "replay" in fresh:
            jax.tree.map(lambda leaf: leaf.delete(), self.replay)  # else it would lie in memory beside the restored one
        arrays, _ = self.checkpoints.restore(step, targets)
        self.learner, self.driver.shared = arrays["learner"], arrays["shared"]
        self.driver.load(arrays["actors"])
        self.evaluator.load(arrays.get("evaluator_bandit"), arrays["evaluator"])
        self.acting = arrays.get("acting", self._current_parameters())
        if "replay" in arrays:
            self.replay = arrays["replay"]
            self.driver.appended = list(saved[SAVED_APPENDED])
        else:
            self.counters.learning_since_timesteps = None  # the replay fills again before learning goes on

    def _state(self) -> dict[str, Any]:
        """The items of a checkpoint. To play with an agent, "learner", "shared", "evaluator_bandit" and "pooled_arms" are enough."""
        items = {
            "learner": self.learner,
            "shared": self.driver.shared,
            "actors": self.driver.state_to_save(),
            "evaluator": parallel.from_first_process(self.mesh, self.evaluator.state_to_save()),
            "replay": self.replay,
        }
        if self.settings.actor.refresh_period > 1:
            items["acting"] = self.acting
        if self.evaluator.state.bandit is not None:
            items["evaluator_bandit"] = parallel.from_first_process(self.mesh, self.evaluator.state.bandit)
        if self.settings.asks_actors:
            items["pooled_arms"] = self._pooled_arms()  # for who judges; a resumed run asks the bandits themselves
        return items

    def _animate(self, gif: bytes, width: int, height: int) -> None:
        if self.metrics is not None:
            self.metrics.animate(gif, width, height, self.counters.steps)
