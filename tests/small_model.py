"""A workspace with networks that learned nothing, but say something of every voxel."""

import torch
from small_plans import small_plan
from torch import nn

from kitspipe.networks.resunet3d import ResUNet3D
from kitspipe.networks.vnet25d import VNet25D
from kitspipe.networks.weights import save_weights
from kitspipe.planning.choice import Choice, training_keys
from kitspipe.planning.document import write_document
from kitspipe.planning.planner import training_key
from kitspipe.prediction.job import FINAL
from kitspipe.workspace import STAGES, Workspace


class Says(nn.Module):
    """A kidney network that says the same of every voxel."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward_finest(self, image):
        return torch.full_like(image, self.logit)

    def forward_coarse(self, image, below):
        z, y, x = image.shape[2:]
        return torch.full((1, 1, z // 2, y // 2**below, x // 2**below), self.logit)


def write_model(root, *, folds=(0,), seed=0, plan=None, name="default", threshold=None):
    """Plan, networks of both stages and, if a threshold is chosen, `choice.json` in a workspace."""
    place, plan = Workspace(root=root, plan_name=name), plan or small_plan()
    write_document(place.plan_file, plan)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for fold in folds:
            networks = {
                "kidney": ResUNet3D(plan.kidney.network),
                "tumor": VNet25D(plan.tumor.network),
            }
            for stage, network in networks.items():
                file = place.fold_folder(stage, fold) / FINAL
                save_weights(file, network, plan_sha256=training_key(plan, stage), stage=stage)
    if threshold is not None:
        write_document(place.choice_file, chosen(plan, threshold))
    return place


def chosen(plan, threshold):
    """A choice of this threshold, of nothing else."""
    return Choice(
        training_keys=training_keys(plan),
        cases=2,
        mask_dilation_mm=plan.tumor.mask_dilation_mm,
        threshold=threshold,
        components=plan.tumor.components,
        minimal_tumor_ml=plan.tumor.minimal_tumor_ml,
        minimal_healthy_ml=plan.tumor.minimal_healthy_ml,
        left_out=dict.fromkeys(STAGES, ()),
        why={"threshold": "tried"},
        trials=(),
    )
