"""What is evaluated, whatever it is: a network of a run, one of a file, or the class maps that one predicted."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lightning.fabric import Fabric
from rich.console import Console
from torch import nn

from spcnet import distributed
from spcnet.config import DataConfig, DomainSpec, EvaluationConfig, RunConfig, as_dict
from spcnet.data.datasets import SegmentationSet
from spcnet.data.loading import evaluation_batches
from spcnet.data.roots import root_of
from spcnet.data.sampling import Shard
from spcnet.engine import records
from spcnet.engine.devices import scorer
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation import evaluator
from spcnet.evaluation.protocols import PROTOCOLS, Protocol, as_published
from spcnet.evaluation.tta import TestTimeAugmentation, augmented
from spcnet.formatting import print_plain
from spcnet.inference.engines import EngineNetwork
from spcnet.labels import LabelSpace
from spcnet.runs import resized
from spcnet.studies.predictions import Predictions

Record = dict[str, Any]
DEFAULT_PROTOCOL: Final = PROTOCOLS["spcnet"]
"""The protocol of this package."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a network, or the class maps that one predicted."""

    model: nn.Module | Predictions
    name: str
    """Of the run, file or folder, in records."""
    space: LabelSpace
    data: DataConfig
    """Says where the data sets lie, and to which size a network's images are brought."""
    method: str
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    """Of its training."""
    sources: Sequence[str] = ()
    """Domains that it was trained on."""
    iteration: int = 0
    ema: float = 0.0
    """Share that the exponential moving average of its weights kept in a step; 0 where they are those that were trained."""

    @classmethod
    def of_config(cls, config: RunConfig, network: nn.Module, space: LabelSpace) -> "Subject":
        """The network of a run that is being trained."""
        return cls(
            network,
            config.output.name,
            space,
            config.data,
            config.method,
            config.evaluation,
            config.training.seed,
            config.data.source_tests,
        )

    def evaluate(
        self,
        tests: Mapping[str, SegmentationSet],
        fabric: Fabric,
        *,
        protocol: Protocol = DEFAULT_PROTOCOL,
        folder: Path,
        console: Console,
    ) -> dict[str, evaluator.DomainResult]:
        """Evaluate on each domain; several processes have a shard of its images each.

        Args:
            tests: the domains by name.
            fabric: the processes and their device.
            protocol: how.
            folder: where images that are skipped are noted.
            console: where progress is shown.

        Raises:
            DataError: an image cannot be read, and `data.on_bad_image` is to stop.
        """
        evaluate_domain = self._domain_evaluator(fabric, protocol)
        results = {}
        skipped = Skipped(folder / records.SKIPPED_FILE, console)
        with bar(console, len(tests), 0, "test") as show:
            for index, (name, images) in enumerate(tests.items()):
                bad: dict[str, str] = {}
                with distributed.raise_on_all_ranks():
                    shard = evaluate_domain(name, images, index, bad.__setitem__)
                result = evaluator.merge_shards(distributed.gather(shard), panels=self.evaluation.panels)
                everywhere = {image: message for one in distributed.gather(bad) for image, message in one.items()}
                results[name] = replace(result, skipped=len(everywhere))
                skipped.add(name, everywhere)
                if not result.is_labelled:  # which is neither an mIoU of 0 nor forgotten
                    what = f"none of the {result.images:,} images has a labelled pixel in the space {self.space.name}"
                    print_plain(console, f"{name}: {what}, so it has no mIoU", style="yellow")
                show(index + 1, {})
        return results

    def _domain_evaluator(
        self, fabric: Fabric, protocol: Protocol
    ) -> Callable[[str, SegmentationSet, int, Callable[[str, str], None]], evaluator.DomainResult]:
        """What evaluates a process's shard of one domain."""
        options, model = self.evaluation, self.model
        if isinstance(model, Predictions):
            return lambda name, images, *_: model.evaluate(images, limit=options.limit, what=name)
        # Images of a protocol come at the size that it wants.
        data = self.data if protocol.prepare is None else resized(self.data, None)
        views = protocol.views or TestTimeAugmentation(
            options.window,
            options.overlap,
            weights=options.window_weights,
            scales=tuple(options.scales),
            flip=options.flip,
        )
        forward = augmented(scorer(model, fabric), views, at_once=options.batch_size)

        def evaluate(
            _: str, images: SegmentationSet, index: int, on_skip: Callable[[str, str], None]
        ) -> evaluator.DomainResult:
            batches = evaluation_batches(
                images,
                data,
                domain=index,
                batch_size=options.batch_size,
                limit=options.limit,
                shard=Shard(distributed.rank(), distributed.world_size()),
                on_skip=on_skip,
            )
            return evaluator.evaluate(
                model,
                batches,
                num_classes=len(self.space),
                device=fabric.device,
                forward=forward,
                panels=options.panels,
                may_be_empty=distributed.world_size() > 1,
                align_corners=protocol.align_corners,
            )

        return evaluate

    def record(self, results: Mapping[str, evaluator.DomainResult], protocol: Protocol = DEFAULT_PROTOCOL) -> Record:
        """An evaluation as a run notes it; see `spcnet.evaluation.evaluator.record`."""
        sources = {_read_as(name, protocol) for name in self.sources}
        return evaluator.record(
            results,
            {name: "source" if name in sources else "unseen" for name in results},
            space=self.space,
            origin=evaluator.Origin(
                self.name,
                self.method,
                self.seed,
                self.iteration,
                self.evaluation.views if protocol.views is None else None,
                self.ema,
            ),
            sets=own_sets(results, self.data),
        )

    def published(self, results: Mapping[str, evaluator.DomainResult], protocol: Protocol) -> Record:
        """An evaluation that stands by itself: with its protocol, the size, and on how many images."""
        record = self.record(results, protocol)
        limit = self.evaluation.limit
        few = f"only the first {'image' if limit == 1 else f'{limit} images'} of each domain" if limit else None
        record["views"] = "; ".join(part for part in (record["views"], few) if part) or None
        if not isinstance(self.model, Predictions):
            size = self.data.size if protocol.prepare is None else None
            record["size"] = list(size) if size else None
        if isinstance(self.model, EngineNetwork):
            running = self.model.running
            record["engine"] = f"{running.name} {running.precision}"
        return as_published(record, protocol)


def _read_as(source: str, protocol: Protocol) -> str:
    """A source as the protocol names it; weights of other code may call theirs anything."""
    try:
        return protocol.domain(source)
    except UsageError:
        return source


def own_sets(names: Iterable[str], data: DataConfig) -> dict[str, Record]:
    """Of each domain that is of a set of one's own, how that set is described and where it lies."""
    described = {}
    for name in names:
        spec = DomainSpec.parse(name)
        if spec.dataset in data.sets:
            root = root_of(spec.dataset, data).resolve()
            described[name] = {**as_dict(data.sets[spec.dataset]), "root": str(root)}
    return described


class Skipped:
    """Images that a run goes on without: each is named once, on the console and in the run's folder."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.known = {(line["where"], line["image"]) for line in records.read_lines(path)}

    def add(self, where: str, images: Mapping[str, str]) -> None:
        """Note images by name with what is wrong with them.

        Raises:
            DataError: the list cannot be written.
        """
        for image, message in images.items():
            if (where, image) not in self.known and distributed.rank() == 0:
                self.known.add((where, image))
                records.append_line(self.path, {"where": where, "image": image, "message": message})
                print_plain(self.console, f"skipped: {message}", style="yellow")


def save_evaluation(
    subject: Subject,
    results: Mapping[str, evaluator.DomainResult],
    folder: Path,
    *,
    names: Sequence[str],
    write: bool = True,
) -> Record:
    """An evaluation of a run as a record; in the run's folder it is a line of results.jsonl, and the panels.

    Args:
        subject: the run's network.
        results: of each domain that was evaluated.
        folder: of the run.
        names: domains that the run is known by, its sources and targets. A record that lacks one of them, also after
            figures of the same network were joined to it, is marked as `partial`.
        write: add it to the run; only one of several processes does.

    Returns:
        The record, with the figures that the run had of other domains already.

    Raises:
        DataError: the run's folder cannot be written.
    """
    record = subject.record(results)
    before = earlier(folder / records.RESULTS_FILE, record, same=("iteration", "classes", "views"))
    if before is not None:
        # Testing a finished run on further domains adds to what is known of it, also where it was evaluated in other
        # manners in between.
        record = evaluator.joined(before, record)
    if not set(names) <= set(record["domains"]) and (before is None or before.get("partial")):
        record["partial"] = True
    else:
        record.pop("partial", None)
    if not write:
        return record
    for name, result in results.items():
        evaluator.save_panels(result, folder / "panels", name, space=subject.space)
    # A run that was killed after its last line is tested again when it goes on; the line stays the only one.
    if before is None or _scores(before) != _scores(record):
        records.append_line(folder / records.RESULTS_FILE, record)
    return record


def earlier(path: Path, record: Mapping[str, Any], *, same: Sequence[str]) -> Record | None:
    """The last line of a file of records that agrees with a record in some entries; None where none does."""
    lines = reversed(records.read_lines(path))
    return next((line for line in lines if all(line.get(name) == record.get(name) for name in same)), None)


def _scores(record: Record) -> Record:
    """What a record says, without when and how fast it was found."""
    domains = {name: {**domain, "seconds": None} for name, domain in record["domains"].items()}
    return {**json.loads(json.dumps(record)), "domains": json.loads(json.dumps(domains)), "time": None}
