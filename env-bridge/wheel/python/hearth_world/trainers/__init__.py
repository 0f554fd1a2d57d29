"""Adapters for trainers, one module each; each needs only what its trainer needs."""
