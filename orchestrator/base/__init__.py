"""What every part of the orchestrator uses: errors, signals, locks, and what is said during a wait."""
