"""gunicorn for the bench: what its documentation advises behind nginx, and no access log."""

keepalive = 3600  # nginx keeps its connections; none may go stale inside a window
graceful_timeout = 30
accesslog = None
loglevel = "error"
worker_tmp_dir = "/dev/shm"  # noqa: S108 - its documentation's advice: the heartbeat must not touch a disk
