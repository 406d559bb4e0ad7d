"""The training loop, to be read in one sitting.

It knows a method, a network and batches. Devices, precision and processes are Lightning Fabric's. What iteration t
does depends only on the seed, t, and the state after iteration t-1, so that a run which was stopped and goes on gives
the same losses as one that was not.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from spcnet import checkpoint, distributed
from spcnet.config import RunConfig, kept_on_resume
from spcnet.engine import membership, records, replay, state
from spcnet.engine.devices import synchronise
from spcnet.engine.ema import WeightAverage
from spcnet.engine.membership import Images
from spcnet.engine.observer import Observer
from spcnet.engine.optim import make_optimizer, pack, set_schedule
from spcnet.engine.prepare import find_classes, freeze_batchnorm, prepare, set_up, to_device
from spcnet.engine.schedule import told
from spcnet.engine.sharding import Replica, gathered
from spcnet.errors import DataError, Interrupted, UsageError
from spcnet.methods.base import Method
from spcnet.methods.step import Step, positions_of
from spcnet.signals import stop_on_signal
from spcnet.types import Batch, Network, SegOutput, StepResult

Progress = Callable[[int, dict[str, float]], None]
"""Called after each logged iteration with the number of finished iterations and the latest losses."""


class Trainer:
    """One training run in a folder.

    Args:
        config: the whole run; its `training` part steers the loop, `output` says where to write.
        method: what is trained.
        network: what `method.build` made, fresh.
        card: what the checkpoints say of the network.
        fabric: where to compute.
        images: the images of each source, which a resumed run must keep.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        network: Network,
        card: checkpoint.ModelCard,
        fabric: Fabric,
        *,
        images: Mapping[str, Images] | None = None,
    ) -> None:
        self.config, self.method, self.card, self.fabric = config, method, card, fabric
        self.images = images or {}
        # Where and as it will be trained from here on: what a checkpoint gives back, the optimiser's momentum above all,
        # would stay behind on the processor, or be rounded in double precision.
        fabric.strategy.precision.convert_module(network).to(fabric.device)
        self.network = network
        synchronise(self.network, fabric)
        self.prepared = prepare(network, config.training, device=fabric.device)
        self.optimizer = make_optimizer(method.parameter_groups(network), network, config.training)
        self.average = WeightAverage(network, config.training) if config.training.ema else None
        """Of the weights, which takes the network's place in evaluations and in the finished file once it has begun."""
        self._replica = Replica(network) if config.training.strategy == "fsdp" else None
        """Makes what is evaluated where the processes divide the parameters; None where each has them all."""
        if self._replica is not None and self.statistics_at is not None:
            raise UsageError(
                f"training.strategy is fsdp, but {config.method} takes statistics of its network, for which every process "
                "needs all of it: choose ddp"
            )
        self._in_steps: tuple[nn.Module, torch.optim.Optimizer] | None = None
        """Network and optimiser as Fabric has set them up, from the first step on."""
        self.iteration = 0
        """Finished iterations."""
        self.keeps_failed_steps = True
        """Whether a step whose loss is not finite is kept in the run's folder to look at; not where nothing is trained."""
        self.ending: Interrupted | None = None
        """What a request to end raises at once, while there is nothing to save."""

    @property
    def evaluated(self) -> Network:
        """What is evaluated and kept: the average of the weights where that has begun, otherwise what is trained.

        Where the processes divide the parameters, a new copy that has them whole; every process comes here.
        """
        return self._kept if self._replica is None else self._replica.of(self.network)

    @property
    def _kept(self) -> Network:
        return self.network if self._average is None else self._average.network

    @property
    def ema(self) -> float:
        """Share that the average which is evaluated keeps in a step; 0 where what is trained is evaluated."""
        return 0.0 if self._average is None else self.config.training.ema

    @property
    def _average(self) -> WeightAverage | None:
        """The average, once it has begun."""
        return self.average if self.average is not None and self.average.begun(self.iteration) else None

    @property
    def batch(self) -> int:
        """Images of each stream (a source, or all) in the batch of an iteration, over all parts and processes."""
        return self.config.data.images_per_domain * self.config.training.accumulate * self.fabric.world_size

    def resume(self) -> str | None:
        """Go on where the run's last whole checkpoint stands.

        Returns:
            What the user should know, where that is not the last one.

        Raises:
            CheckpointError: there is none, both are damaged, or it belongs to another run.
        """
        precision = self.fabric.strategy.precision
        found, note = state.resume(
            self.config.output,
            self.network,
            self.optimizer,
            self.card,
            self.average,
            self.config.training,
            self.method,
        )
        self.card = replace(self.card, base=self.network.base)
        state.check_draws(self.config.output, found, self.batch, self.config.data)
        membership.check(self.config.output, found.get("images", {}), self.images)
        if scaler := found.get("precision"):  # empty where the run had another precision until now
            precision.load_state_dict(scaler)
        self.iteration = int(found["iteration"])
        if self.fabric.is_global_zero:
            for name in (records.TRAIN_FILE, records.RESULTS_FILE):
                records.keep_until(self.config.output / name, self.iteration)
            if note is not None:
                state.set_damaged_aside(self.config.output)
        return note

    def save(self) -> None:
        """Write a checkpoint from which `resume` goes on.

        Raises:
            DataError: it cannot be written, or a weight is not finite; the one before stays.
        """
        stored = gathered(self.network.stored(whole=self.card.base is None))
        memory = gathered(pack(self.optimizer))
        with distributed.raise_on_all_ranks():
            if self.fabric.is_global_zero:
                # A loss that is still finite can have a gradient that is not; going on from such weights is in vain.
                bad = [name for name, value in stored.items() if not bool(value.isfinite().all())]
                if bad:
                    hint = f". {state.how_to_go_on(self.config.output)}" if self.keeps_failed_steps else ""
                    raise DataError(
                        f"{len(bad)} of the network's tensors are not finite after iteration {self.iteration} ({bad[0]}): "
                        f"{replay.remedy(self.config.training)}{hint}"
                    )
                scaler = self.fabric.strategy.precision.state_dict()
                drawn = {name: getattr(self.config.data, name) for name in kept_on_resume("data")}
                more = {"iteration": self.iteration, "batch": self.batch, "drawn": drawn, "precision": scaler}
                if self.images:
                    more["images"] = {source: own.noted() for source, own in self.images.items()}
                state.save(
                    self.config.output,
                    stored | memory,
                    self.card,
                    self._average,
                    self.config.training,
                    self.method,
                    more,
                )

    def finish(self) -> Path:
        """Write the trained network by itself, without the optimiser; the average of its weights where there is one."""
        path = self.config.output / checkpoint.MODEL_FILE
        stored = gathered(self._kept.stored(whole=self.card.base is None))
        with distributed.raise_on_all_ranks():
            if self.fabric.is_global_zero:
                about = {"iteration": self.iteration} | ({"ema": self.ema} if self.ema else {})
                checkpoint.write(path, stored, self.card, about)
        return path

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        on_progress: Progress = lambda iteration, losses: None,
        on_evaluate: Callable[[int], object] = lambda iteration: None,
        trials: Callable[[], Iterable[Iterable[Batch]]] = tuple,
        observer: Observer | None = None,
    ) -> None:
        """Train from the current iteration to the last.

        Args:
            batches: `training.accumulate` for each iteration that is left, the first those of `self.iteration`; of
                several processes each gets its own share of every batch.
            trials: makes what the method's statistics are taken from, the same at every call.
            on_progress: called after every iteration.
            on_evaluate: called every `training.evaluate_every` iterations, and not after the last.
            observer: notes the run; by default one that this makes and closes.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            DataError: the loss is not finite, or a batch cannot be read; the last checkpoint stays.
        """
        training, fabric = self.config.training, self.fabric
        with stop_on_signal(lambda: self.ending) as stopped, ExitStack() as ends:
            if observer is None:
                observer = Observer(
                    self.config, self.method, self.network, start=self.iteration, enabled=fabric.is_global_zero
                )
                ends.enter_context(closing(observer))
            if self._unevaluated():
                self._evaluate(on_evaluate)
            for parts in observer.timed(self.micro_batches(batches)):
                if self.iteration == self.statistics_at:
                    self.take_statistics(trials(), stopped)
                result = self.step(parts)
                last = self.iteration == training.iterations
                evaluated = training.evaluate_every > 0 and not last and self.iteration % training.evaluate_every == 0
                observer.look(self.iteration, parts, result, self.predictor(used=observer.due(self.iteration)))
                if last or self.iteration % training.log_every == 0:
                    with distributed.raise_on_all_ranks():
                        figures = observer.write(self.iteration, result, told(self.iteration - 1, training))
                    on_progress(self.iteration, figures)
                else:
                    on_progress(self.iteration, {})
                if distributed.any_of(bool(stopped))[0]:
                    self._interrupt()
                # An evaluation may take longer than the time that a job is given to end.
                if last or evaluated or self.iteration % training.checkpoint_every == 0:
                    self.save()
                if evaluated:
                    self._evaluate(on_evaluate)

    def _evaluate(self, on_evaluate: Callable[[int], object]) -> None:
        """Evaluate; what came before is saved, so that a request to end need not wait, and the evaluation is made later."""
        if distributed.world_size() == 1:
            self.ending = Interrupted(self.iteration, self.config.output)
        try:
            on_evaluate(self.iteration)
        finally:
            self.ending = None

    def _unevaluated(self) -> bool:
        """Whether an evaluation was due after the iteration that the run goes on from, and the run ended within it."""
        every, done = self.config.training.evaluate_every, self.iteration
        if not every or done % every or not 0 < done < self.config.training.iterations:
            return False
        return all(
            line.get("iteration") != done for line in records.read_lines(self.config.output / records.RESULTS_FILE)
        )

    def micro_batches(self, batches: Iterable[Batch]) -> Generator[list[Batch], None, None]:
        """The batch of each iteration, in its parts; what one process cannot read stops all.

        Raises:
            DataError: an image cannot be read, or a process that reads them was killed.
        """
        waiting = iter(batches)
        while True:
            parts: list[Batch] = []
            error = None
            try:
                with state.dead_workers_told(self.config.output if self.keeps_failed_steps else None):
                    parts = list(islice(waiting, self.config.training.accumulate))
            except DataError as found:
                error = found
            distributed.sync_error(error)
            if not parts:
                return
            yield parts

    @property
    def statistics_at(self) -> int | None:
        """The iteration before which the method takes its statistics; None where it takes none."""
        return self.method.statistics_at(self.network, self.config.model, self.config.training.iterations)

    def step(self, micro_batches: Sequence[Batch]) -> StepResult:
        """One iteration: schedule, losses and their gradient, the optimiser's step, the method's update, the average.

        Training, `train --dry-run` and the benchmarks make their steps here.

        Args:
            micro_batches: the batch of this process, in `training.accumulate` parts, of which only one has to fit into the
                memory.

        Raises:
            DataError: the loss is not finite; the weights are as before.
        """
        training = self.config.training
        network, optimizer = self._set_up()
        set_schedule(optimizer, self.iteration, training)
        result, finite = self.gradient(micro_batches)
        failed = not finite()
        if failed if self._replica is None else distributed.any_of(failed)[0]:
            self._fail(micro_batches, result)
        if training.clip_gradient:
            # In mixed precision a gradient that is not finite makes the loss's scale smaller, and no step.
            self.fabric.clip_gradients(network, optimizer, max_norm=training.clip_gradient, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress = self.iteration / training.iterations
        self.method.update(self.network, result, progress=progress, reduce=distributed.all_reduce_sum)
        self.iteration += 1
        if self.average is not None:
            self.average.update(self.network, self.iteration)
        return result

    def _set_up(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network and the optimiser as steps use them; first called when a resumed run has its weights."""
        if self._in_steps is None:
            self._in_steps = set_up(self.fabric, self.prepared, self.network, self.optimizer)
        return self._in_steps

    def gradient(self, micro_batches: Sequence[Batch]) -> tuple[StepResult, Callable[[], bool]]:
        """The losses of this iteration and their gradient, in the network; how to learn whether the loss is finite.

        Args:
            micro_batches: the batch of this process, in parts.
        """
        network, _ = self._set_up()
        self._train_mode(network)
        progress = self.iteration / self.config.training.iterations
        moved = [to_device(batch, self.fabric.device) for batch in micro_batches]
        if len(moved) > 1:
            result = self._accumulated(network, moved, progress)
            return result, replay.watch(result.loss)
        self._seed(0)
        result = self._losses(network, moved[0], 0, progress, distributed.all_reduce_sum)
        finite = replay.watch(result.loss)  # before the backward pass, which a GPU then does while it answers
        self.fabric.backward(result.loss)
        return result, finite

    def _train_mode(self, network: nn.Module) -> None:
        network.train()
        if self.config.training.freeze_batchnorm:
            freeze_batchnorm(self.network)

    def _losses(
        self, network: nn.Module, batch: Batch, part: int, progress: float, reduce: distributed.Reduce
    ) -> StepResult:
        batch = self.method.alter(self.network, batch, self._step(len(batch.name), part, progress))
        # No name for the network's output: scores and embeddings are given back as soon as their gradient is taken.
        return self.method.losses(
            self.network,
            self._forward(network, batch, progress),
            batch,
            self.config.model,
            progress=progress,
            reduce=reduce,
        )

    def _forward(self, network: nn.Module, batch: Batch, progress: float) -> SegOutput:
        # Fabric hands over what a network returns in torch's default type; in double precision that has to be double.
        self.method.prepare(self.network, batch, self.config.model, progress=progress)
        with self.fabric.strategy.precision.tensor_init_context():
            output: SegOutput = network(batch.image)
        return output

    def _accumulated(self, network: nn.Module, parts: Sequence[Batch], progress: float) -> StepResult:
        """The gradient of a batch in parts: that of the whole batch, but for batch norms, which see one part at a time.

        The losses divide by what all parts have together, and the class means of the clustering are those of all
        parts. So each micro-batch is evaluated twice, first without gradient.
        """
        sums, results = distributed.MicroBatchSums(), []
        before = [buffer.clone() for buffer in self.network.buffers()]
        with torch.no_grad():
            for number, part in enumerate(parts):
                self._seed(number)
                sums.begin()
                self._losses(network, part, number, progress, sums)
            for buffer, old in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(old)
        sums.close()
        for number, part in enumerate(parts):
            self._seed(number)
            sums.begin()
            waits = distributed.world_size() > 1 and number < len(parts) - 1
            with self.fabric.no_backward_sync(network) if waits else nullcontext():  # type: ignore[arg-type]
                result = self._losses(network, part, number, progress, sums)
                self.fabric.backward(result.loss)
            results.append(result._replace(loss=result.loss.detach()))
        return results[-1]._replace(extras=self.method.joined([result.extras for result in results]))

    def predictor(self, *, used: bool = True) -> Callable[[Tensor], Tensor]:
        """What finds the class of each pixel in one process alone, for which every process comes here.

        Args:
            used: whether one process will; the same in every process.
        """
        network = self.evaluated if used and self._replica is not None else self.network
        return partial(find_classes, network, self.fabric)

    def _seed(self, part: int) -> None:
        """Make dropout a function of iteration, part and process, and so a resumed run the same run."""
        torch.manual_seed(self._seed_of(part))

    def _seed_of(self, part: int) -> int:
        place = part * self.fabric.world_size + self.fabric.global_rank
        return self.config.training.seed * 1_000_003 + self.iteration + place * 7_368_787_313

    def _step(self, images: int, part: int, progress: float) -> Step:
        """What a micro-batch of so many images is to the method."""
        config, precision, world = self.config, self.fabric.strategy.precision, self.fabric.world_size
        streams = len(config.data.sources) if config.data.sampling == "balanced" else 1
        shards = world * config.training.accumulate
        places = [
            positions_of(images, streams=streams, shard=part * world + rank, shards=shards) for rank in range(world)
        ]

        def forward(image: Tensor) -> SegOutput:
            self.network.eval()
            with precision.forward_context():
                output: SegOutput = self.network(precision.convert_input(image))
            self._train_mode(self.network)
            return output

        seed, place = config.training.seed, places[self.fabric.global_rank]
        return Step(seed, self.iteration, progress, place, part, forward, precision.forward_context, sum(places, ()))

    def take_statistics(self, trials: Iterable[Iterable[Batch]], stopped: Sequence[int] = ()) -> None:
        """Let the method take its statistics, before the iteration `statistics_at`.

        A run that is killed here takes them again from the beginning, from the same state, so with the same result.

        Args:
            trials: what they are taken from.
            stopped: no longer empty once the run is asked to end.

        Raises:
            Interrupted: it was asked to end; the state is saved.
            DataError: an image cannot be read.
        """
        network, _ = self._set_up()
        alone = distributed.world_size() == 1

        def unless_stopped(batches: Iterable[Batch]) -> Iterator[Batch]:
            # Several processes, which need not have equally many batches, agree once a trial.
            if distributed.any_of(bool(stopped))[0]:
                self._interrupt()
            error = None
            try:
                for batch in batches:
                    if alone and stopped:
                        self._interrupt()
                    yield to_device(batch, self.fabric.device)
            except DataError as found:
                error = found
            distributed.sync_error(error)

        network.eval()
        with torch.compiler.set_stance("force_eager"):  # what is compiled does not see who listens to its layers
            self.method.take_statistics(
                self.network,
                network,
                (unless_stopped(batches) for batches in trials),
                self.config.model,
                reduce=distributed.all_reduce_sum,
            )

    def _interrupt(self) -> NoReturn:
        self.save()
        error = Interrupted(self.iteration, self.config.output)
        error.told_elsewhere = distributed.rank() > 0
        raise error

    def _fail(self, parts: Sequence[Batch], result: StepResult) -> NoReturn:
        """End the run before the loss that is not finite reaches the weights, and keep the step to look at."""
        # Every process takes part in gathering what is divided among them.
        tensors, memory = (gathered(own, everywhere=True) for own in (self.network.state_dict(), pack(self.optimizer)))
        step = replay.Kept(
            tensors | state.kept_by(self.method),
            memory,
            self.card,
            self.config,
            parts,
            self.iteration,
            self._seed_of(0),
            dict(self.fabric.strategy.precision.state_dict()),
            float(result.loss.detach()),
            {name: float(value) for name, value in result.parts.items()},
        )
        failure = DataError(replay.explain(step, self.fabric.global_rank, keep_step=self.keeps_failed_steps))
        failure.told_elsewhere = self.keeps_failed_steps and distributed.rank() > 0
        raise failure
