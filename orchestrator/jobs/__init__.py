"""Runs as Ray jobs: submitting, following, listing, stopping."""
