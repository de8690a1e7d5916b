"""The training loop: acts, learns on schedule, evaluates, reports, saves, resumes and stops cleanly."""

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


class TrainingError(RunError):
    """Training cannot continue; the message says why and names the last good checkpoint."""


class LostProcessError(TrainingError):
    """Another process of this run has ended or cannot be reached."""


class Trainer:
    """One run in one folder. Of several processes only the first writes, shows progress and evaluates."""

    replay: ReplayState
    learner: LearnerState
    update_metrics: programs.UpdateMetrics

    def __init__(self, settings: Settings, workdir: str | os.PathLike[str], should_stop: Callable[[], bool]) -> None:
        """Builds environments, programs and states, or restores them from the last checkpoint; arguments as of `interface.train`.

        Raises SettingsError for settings that do not work with task, devices or memory, CheckpointError for a checkpoint that does not fit.
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
            if self._is_first:  # the others write only together with it
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
        """Opens the run, its recorder and its metrics, and shows what was found."""
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
        if resumed is None:
            self.console.say(f"new run in {self.workdir}")
            return
        self.console.say(f"resumed from checkpoint {resumed} of {self.workdir}: {self.counters.updates} updates")
        if not self.checkpoints.has_item(resumed, "replay"):
            wanted = settings.replay.min_sequences
            self.console.say(f"checkpoint {resumed} has no replay: acting until {wanted} sequences are stored, then learning continues")

    def run(self) -> None:
        """Trains until `total_steps` or until it should stop, and saves a checkpoint at the end.

        Raises TrainingError for non-finite values or a failed environment, its subclass LostProcessError when another process is gone.
        """
        has_lost = False
        try:
            self._train()
        except HostEnvironmentError as error:
            raise self._failure(str(error)) from error
        except (jax.errors.JaxRuntimeError, ValueError, CheckpointError) as error:
            has_lost = parallel.may_have_lost_a_process(error) or (isinstance(error, CheckpointError) and jax.process_count() > 1)
            if not has_lost:
                raise
            # The first operation that needed the other processes has failed: a sum over the devices, or a checkpoint's barrier.
            raise LostProcessError(
                f"process {jax.process_index()} lost contact with another process, or failed by itself: "
                f"{' '.join(str(error).split())[:200]}. "
                f"Restart all processes: they will resume from checkpoint {self.checkpoints.latest()} in {self.workdir}"
            ) from error
        finally:
            # Closing files and emulators would wait for a lost process.
            self._end() if has_lost else self.close()

    def _failure(self, reason: str) -> TrainingError:
        return TrainingError(f"{reason}. Last good checkpoint: {self.checkpoints.latest()} in {self.workdir}")

    def _train(self) -> None:
        self._gather_requests()()
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
        """Ends emulators, completes files, restores the terminal: each of them even if another one fails."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            stack.callback(self.checkpoints.close)
            if self.metrics is not None:
                stack.callback(self.metrics.close)
            if self.recorder is not None:
                stack.callback(self.recorder.close)
            stack.callback(self._end_environments)

    def _end(self) -> None:
        """Restores the terminal and releases the folder."""
        self.console.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def is_finished(self) -> bool:
        """Whether the run is complete, with its last evaluation, rather than stopped."""
        return self.counters.steps >= self.settings.total_steps and not self._requests.stop

    def _end_environments(self) -> None:
        self.driver.close()
        self.evaluator.close()

    def _gather_requests(self) -> Callable[[], None]:
        """Starts to sum up the requests of all processes; the result waits for them and applies them."""
        # A single process asks later, for its latest state.
        gathered = parallel.start_sum(self.mesh, self._local_requests()) if jax.process_count() > 1 else self._local_requests

        def apply() -> None:
            self._requests = Requests(*map(bool, gathered()))

        return apply

    def _local_requests(self) -> Sequence[int]:
        """Fields of `Requests`. Any process may request a stop, as a signal may reach only one; only the first one's clock counts."""
        now = time.monotonic()
        report = now - self._last_report >= self.settings.logging.period_seconds
        save = now - self._last_save >= self.settings.checkpoint.period_seconds
        return self.should_stop(), self._is_first and report, self._is_first and save

    def _act_and_learn(self) -> None:
        """One group's act (or one scan of acts), the evaluator's act if due, then the updates that are due."""
        counters = self.counters
        apply_requests = self._gather_requests()
        if counters.acts // self._acts_per_dispatch % self.settings.actor.refresh_period == 0:
            self.acting = self._current_parameters()
        self.replay = self.driver.dispatch(self.acting, self.replay, counters)
        self._start_evaluation()
        learnt = self.update_metrics.updates  # of the updates queued before this act
        drawable = reporting.drawable_sequences(self.store, self.driver.appended, self.settings.envs_per_group)
        due = self.schedule.updates_due(counters, drawable)
        if due:
            self.learner, self.replay, self.update_metrics = self.programs.learn(
                self.learner, self.replay, self.update_metrics, self.root, counters.updates, due
            )
            counters.updates += due
        self.driver.complete(counters, learnt)
        self._count_evaluation()
        apply_requests()

    def _current_parameters(self) -> ActingParameters:
        """The learner's parameters for the actors."""
        current = acting_parameters(self.learner)
        # The next update consumes the learner's buffers, so lagging parameters need a copy.
        return current if self.settings.actor.refresh_period == 1 else self.programs.copy(current)

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
        """Statistics of the actors' bandits over all processes; None where the evaluator does not use them."""
        return self.programs.pool_arms([state.bandit for state in self.driver.states]) if self.settings.asks_actors else None

    def _count_evaluation(self) -> None:
        with self.stopwatch("evaluation"):
            episodes = self.evaluator.complete()
        self.counters.greedy_episodes += sum(episode.is_greedy for episode in episodes)
        self._evaluated.extend(episodes)

    def _finish_evaluation(self) -> None:
        """Continues the evaluation until there is a score, one block of greedy episodes, or a limit is reached."""
        evaluation = self.settings.evaluation
        # The current episode, one bandit episode, and the block.
        acts = (evaluation.greedy_episodes + 2) * (self.settings.environment.max_episode_steps + 1)
        pooled = self._pooled_arms()
        while not self._requests.stop:
            wants_more = self._is_first and self.counters.greedy_episodes < evaluation.greedy_episodes
            if wants_more and not acts:
                self.console.say("there is no score: evaluation episodes last longer than environment.max_episode_steps", warning=True)
            # All processes stay in this loop, since they save together.
            if not any(parallel.start_sum(self.mesh, [wants_more and acts > 0])()):
                return
            acts -= 1
            apply_requests = self._gather_requests()
            if self._is_first:
                self._start_evaluation_act(pooled)
                self._count_evaluation()
            apply_requests()
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
        self._last_report = self._count_seconds()
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
        priorities = jax.device_get(self.programs.count_priorities(self.replay))  # needs all processes
        if self.metrics is not None:
            self.metrics.write(counters.progress(), values, reporting.histograms(priorities))
        self.console.update(counters.progress(), values)

    def _count_seconds(self) -> float:
        """Adds the time in the loop to the counters; returns the current time."""
        now = time.monotonic()
        self.counters.seconds += now - self._loop_since
        self._loop_since = now
        return now

    def _stop_if_not_finite(self, acts: ActMetrics, updates: programs.UpdateMetrics) -> None:
        """Called before saving, so that no run resumes from non-finite values."""
        found = reporting.not_finite(self.parts, acts, updates, self.counters.timesteps)
        if found is not None:
            raise self._failure(found)

    def _save(self) -> str:
        """Writes a checkpoint of everything that a resumed run needs; returns its path."""
        self._stop_if_not_finite(*jax.device_get((self.driver.shared.metrics, self.update_metrics)))
        arrays = self._state()
        if not self.settings.checkpoint.save_replay:
            del arrays["replay"]
        self._last_save = self._count_seconds()
        self.counters.checkpoints += 1
        meta = {"counters": vars(self.counters), "appended": self.driver.appended, "capacity": self.capacity}
        with self.stopwatch("saving"):
            is_new = self.checkpoints.save(self.counters.checkpoints, arrays, meta)
        if not is_new:
            raise CheckpointError(f"checkpoint {self.counters.checkpoints} of {self.workdir} already exists: another program writes to it")
        return f"{self.workdir}/checkpoints/{self.counters.checkpoints}"

    def _open(self) -> tuple[int | None, list[str]]:
        """Builds the run from its newest readable checkpoint, or a new run if there is none.

        Returns the number of that checkpoint, and a sentence for each newer, damaged one, which is set aside. Raises CheckpointError if
        none of several can be read, since a new run would overwrite what may be repaired.
        """
        found: list[tuple[int, DamagedCheckpointError]] = []
        for step in reversed(self.checkpoints.steps()):
            error: DamagedCheckpointError | None = None
            try:
                self._build(step)
            except DamagedCheckpointError as damage:
                error = damage
            # All processes must be able to read it.
            if any(parallel.start_sum(self.mesh, [error is not None])()):
                if error is None:
                    self._end_environments()
                    error = DamagedCheckpointError(f"checkpoint {step} in {self.workdir} could not be read by another process")
                found.append((step, error))
                continue
            return step, self._set_aside(found)
        if found:
            raise CheckpointError(f"no checkpoint can be read: {found[0][1]}. To start a new run choose another --workdir")
        self._build(None)
        return None, []

    def _build(self, resumed: int | None) -> None:
        """Makes environments, programs and states, and restores a checkpoint. Shows the table of bytes before allocating any."""
        settings = self.settings
        saved = self.checkpoints.meta(resumed) if resumed is not None else {}
        self.counters = Counters(**saved.get("counters", {}))
        self.counters.starts += 1
        environments, evaluation, simulated = assembly.make_environments(settings, self.counters.starts - 1, self.recorder is not None)
        self.parts = programs.build(settings, evaluation.spec)
        self.capacity, table = memory.plan(self.parts, self.mesh.size, saved.get("capacity"))
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
        """Renames unreadable checkpoints; returns a sentence for each."""
        names = [self.checkpoints.set_aside(step).name for step, _ in damaged] if self._is_first else []
        parallel.start_sum(self.mesh, [0])()  # waits until the first process has renamed them
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
            jax.tree.map(lambda leaf: leaf.delete(), self.replay)  # frees memory for the restored one
        arrays, _ = self.checkpoints.restore(step, targets)
        self.learner, self.driver.shared = arrays["learner"], arrays["shared"]
        self.driver.load(arrays["actors"])
        self.evaluator.load(arrays.get("evaluator_bandit"), arrays["evaluator"])
        self.acting = arrays.get("acting", self._current_parameters())
        if "replay" in arrays:
            self.replay = arrays["replay"]
            self.driver.appended = list(saved["appended"])
        else:
            self.counters.learning_since_timesteps = None  # the replay must fill before learning continues

    def _state(self) -> dict[str, Any]:
        """The items of a checkpoint. Playing needs only "learner", "shared", "evaluator_bandit" and "pooled_arms"."""
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
            items["pooled_arms"] = self._pooled_arms()  # for evaluation; a resumed run computes them from the bandits
        return items

    def _animate(self, gif: bytes, width: int, height: int) -> None:
        if self.metrics is not None:
            self.metrics.animate(gif, width, height, self.counters.steps)
