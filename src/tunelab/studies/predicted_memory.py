"""Peak memory of trainings that never ran, from the models' configurations (planning/)."""

from __future__ import annotations

from collections.abc import Sequence

from tunelab.config import Recipe
from tunelab.config.study import Study
from tunelab.errors import TunelabError
from tunelab.planning.automatic import with_automatic
from tunelab.planning.memory import PROCESS_BYTES
from tunelab.preparation.model import compute_device
from tunelab.records.cells import Cell
from tunelab.training.device_memory import planned, usable_memory


def predicted_memory(study: Study, cells: Sequence[Cell]) -> dict[str, float]:
    """Bytes by key, of a step that fills its micro-batch: on a GPU what is allocated, on a CPU the whole process.

    Evaluations are left out, and trainings whose architecture the planner does not know or whose model is not here.
    """
    arms = dict.fromkeys(cell.arm for cell in cells if not cell.benchmark)
    peaks = {arm: _peak_bytes(study.arm_recipe(arm, study.seeds[0])) for arm in arms}
    return {cell.key: peak for cell in cells if not cell.benchmark and (peak := peaks[cell.arm]) is not None}


def _peak_bytes(recipe: Recipe) -> float | None:
    try:
        device = compute_device(recipe)
        plan = planned(recipe, on_gpu=device.type == "cuda")
    except TunelabError:
        return None  # what is missing is named where the jobs are listed
    if plan is None:
        return None
    plan, _ = with_automatic(plan, usable_memory(device))
    return plan.peak().allocated + PROCESS_BYTES * (not plan.on_gpu)
