"""Unattended runs: many studies in, results, a manifest and an audit trail out."""
