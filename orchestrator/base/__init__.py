"""What every part of the orchestrator uses: errors, signals, locks, files, progress of a wait."""
