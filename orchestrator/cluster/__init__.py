"""Ray: the session, who sits where, handles of actors, the latest weights for restarted workers."""
