"""The SPIDER network: view encoder, positional encoding, implicit decoder."""

from spider_bundle.networks.spider import SPIDER

__all__ = ["SPIDER"]
