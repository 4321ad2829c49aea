"""The naive baselines that every result stands beside."""

from spider_bundle.evaluation.baselines.back_projection import BackProjection
from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.baselines.nearest_head import NearestHead
from spider_bundle.evaluation.baselines.ridge import RidgeHead

__all__ = ["BackProjection", "MeanHead", "NearestHead", "RidgeHead"]
