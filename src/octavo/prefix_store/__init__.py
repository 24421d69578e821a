"""The prefix cache's copy on disk: what survives a restart, and what replicas on one volume share."""
