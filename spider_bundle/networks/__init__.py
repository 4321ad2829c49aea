"""The SPIDER network: view encoder, codes of the point, implicit decoder."""

from spider_bundle.networks.spider import SPIDER

__all__ = ["SPIDER"]
