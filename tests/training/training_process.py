"""One process of a training that ``torchrun`` starts; writes what a test compares.

torchrun --nproc-per-node 2 tests/training/training_process.py <folder> <overrides as JSON>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from torch.optim import Optimizer

CONFIGS = ["configs/train.json", "configs/multi_gpu_train.json"]


def main() -> None:
    folder, overrides = Path(sys.argv[1]), json.loads(sys.argv[2])
    workflow = ConfigWorkflow(config_file=CONFIGS, logging_file=False, **overrides)
    workflow.initialize()
    parser = workflow.parser
    trainer = parser.get_parsed_content("train::trainer")
    network = parser.get_parsed_content("network").module
    optimizer: Optimizer = parser.get_parsed_content("optimizer")
    record: dict[str, Any] = {
        "start": {name: value.clone() for name, value in network.state_dict().items()},
        "validates": parser.get_parsed_content("train::validation") is not None,
        "losses": [],
    }

    def note_gradients(engine: Engine) -> None:
        if "gradients" not in record:
            batch = engine.state.batch
            names = ("image", "projection", "points", "label")
            record["batch"] = {
                name: torch.Tensor.as_subclass(batch[name], torch.Tensor) for name in names
            }
            record["gradients"] = [
                p.grad.clone() for group in optimizer.param_groups for p in group["params"]
            ]
        record["losses"].append(engine.state.output["loss"].item())

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, note_gradients)
    workflow.run()
    record["end"] = network.state_dict()
    record["averaged"] = parser.get_parsed_content("ema").ema_model.state_dict()
    rank = dist.get_rank()
    workflow.finalize()
    torch.save(record, folder / f"rank_{rank}.pt")


if __name__ == "__main__":
    main()
