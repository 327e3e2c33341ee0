"""Kills, stops and damage for benchmarks/chaos.py."""
