"""Every setting of gunicorn: its name, its flags, its default, and what its value may be.

One table. What a value means is left to those who use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evener.gunicorn import values as v

ACCESS_LOG_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'


@dataclass(frozen=True)
class Known:
    """What is known about one setting."""

    name: str
    check: Callable[[Any], Any]
    default: Any = None
    flags: tuple[str, ...] = ()
    # How the flag takes its value: argparse's `action`, and what `store_const` stores.
    action: str | None = None
    const: Any = None
    # A hook: its default does nothing.
    hook: bool = False
    # gunicorn has no such setting.
    ours: bool = False


class Refused(Exception):
    """A value that a setting cannot have; the text names the setting and the place."""


def _setting(name: str, check: Callable[[Any], Any], default: Any = None, flags: str = "") -> Known:
    return Known(name, check, default, tuple(flags.split()))


def _switch(name: str, flags: str, default: bool = False) -> Known:
    return Known(name, v.boolean, default, tuple(flags.split()), "store_true")


def _several(name: str, flags: str, check: Callable[[Any], Any] = v.texts) -> Known:
    return Known(name, check, [], tuple(flags.split()), "append")


def _hook(name: str, *parameters: int) -> Known:
    return Known(name, v.hook(*parameters), hook=True)


def _default_bind() -> list[str]:
    port = os.environ.get("PORT")
    return [f"0.0.0.0:{port}"] if port else ["127.0.0.1:8000"]


def known() -> dict[str, Known]:
    """All settings, with defaults that depend on the environment."""
    return {setting.name: setting for setting in (*_process(), *_requests(), *_logs(), *_hooks())}


def _process() -> list[Known]:
    workers = os.environ.get("WEB_CONCURRENCY") or "1"
    return [
        _setting("config", v.text, "./gunicorn.conf.py", "-c --config"),
        _setting("wsgi_app", v.text),
        Known("bind", v.texts, _default_bind(), ("-b", "--bind"), "append"),
        _setting("backlog", v.count, 2048, "--backlog"),
        _setting("workers", v.count, workers, "-w --workers"),
        _setting("worker_class", v.worker_class, "sync", "-k --worker-class"),
        _setting("threads", v.count, 1, "--threads"),
        _setting("worker_connections", v.count, 1000, "--worker-connections"),
        _setting("max_requests", v.count, 0, "--max-requests"),
        _setting("max_requests_jitter", v.count, 0, "--max-requests-jitter"),
        _setting("timeout", v.count, 30, "-t --timeout"),
        _setting("graceful_timeout", v.count, 30, "--graceful-timeout"),
        _setting("keepalive", v.count, 2, "--keep-alive"),
        _switch("reload", "--reload"),
        _setting("reload_engine", v.one_of("auto", "poll", "inotify"), "auto", "--reload-engine"),
        _several("reload_extra_files", "--reload-extra-file", v.files),
        _switch("spew", "--spew"),
        _switch("check_config", "--check-config"),
        _switch("print_config", "--print-config"),
        _switch("preload_app", "--preload"),
        Known("sendfile", v.boolean, None, ("--no-sendfile",), "store_const", False),
        _switch("reuse_port", "--reuse-port"),
        _setting("chdir", v.folder, ".", "--chdir"),
        _switch("daemon", "-D --daemon"),
        _several("raw_env", "-e --env"),
        _setting("pidfile", v.text, None, "-p --pid"),
        _setting("worker_tmp_dir", v.text, None, "--worker-tmp-dir"),
        _setting("user", v.user, None, "-u --user"),
        _setting("group", v.group, None, "-g --group"),
        _setting("umask", v.count, 0, "-m --umask"),
        _switch("initgroups", "--initgroups"),
        _setting("tmp_upload_dir", v.text),
        _setting("proc_name", v.text, None, "-n --name"),
        _setting("default_proc_name", v.text, "gunicorn"),
        _setting("pythonpath", v.text, None, "--pythonpath"),
        _setting("paste", v.text, None, "--paste --paster"),
        _several("raw_paste_global_conf", "--paste-global"),
        _several("dirty_apps", "--dirty-app"),
        _setting("dirty_workers", v.count, 0, "--dirty-workers"),
        _setting("dirty_timeout", v.count, 300, "--dirty-timeout"),
        _setting("dirty_threads", v.count, 1, "--dirty-threads"),
        _setting("dirty_graceful_timeout", v.count, 30, "--dirty-graceful-timeout"),
        _setting("control_socket", v.text, None, "--control-socket"),
        _setting("control_socket_mode", v.count, 0o600, "--control-socket-mode"),
        _switch("control_socket_disable", "--no-control-socket"),
    ]


def _requests() -> list[Known]:
    forwarded = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")
    secure = {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
    return [
        _setting("limit_request_line", v.count, 4094, "--limit-request-line"),
        _setting("limit_request_fields", v.count, 100, "--limit-request-fields"),
        _setting("limit_request_field_size", v.count, 8190, "--limit-request-field_size"),
        _setting("secure_scheme_headers", v.dictionary, secure),
        _setting("forwarded_allow_ips", v.addresses, forwarded, "--forwarded-allow-ips"),
        Known("proxy_protocol", v.proxy_protocol, "off", ("--proxy-protocol",), "optional", "auto"),
        _setting("proxy_allow_ips", v.addresses, "127.0.0.1,::1", "--proxy-allow-from"),
        _setting("protocol", v.one_of("http", "uwsgi"), "http", "--protocol"),
        _setting("uwsgi_allow_ips", v.addresses, "127.0.0.1,::1", "--uwsgi-allow-from"),
        _setting("keyfile", v.text, None, "--keyfile"),
        _setting("certfile", v.text, None, "--certfile"),
        _setting("ssl_version", lambda value: value, 2, "--ssl-version"),
        _setting("cert_reqs", v.count, 0, "--cert-reqs"),
        _setting("ca_certs", v.text, None, "--ca-certs"),
        _switch("suppress_ragged_eofs", "--suppress-ragged-eofs", True),
        _switch("do_handshake_on_connect", "--do-handshake-on-connect"),
        _setting("ciphers", v.text, None, "--ciphers"),
        _setting("http_protocols", v.words, "h1", "--http-protocols"),
        _setting("http2_cleartext", v.http2_cleartext, "off", "--http2-cleartext"),
        _setting("http2_max_concurrent_streams", v.count, 100, "--http2-max-concurrent-streams"),
        _setting("http2_initial_window_size", v.count, 65535, "--http2-initial-window-size"),
        _setting("http2_max_frame_size", v.count, 16384, "--http2-max-frame-size"),
        _setting("http2_max_header_list_size", v.count, 65536, "--http2-max-header-list-size"),
        _switch("permit_obsolete_folding", "--permit-obsolete-folding"),
        _switch("strip_header_spaces", "--strip-header-spaces"),
        _switch("permit_unconventional_http_method", "--permit-unconventional-http-method"),
        _switch("permit_unconventional_http_version", "--permit-unconventional-http-version"),
        _switch("casefold_http_method", "--casefold-http-method"),
        _setting("forwarder_headers", v.words, "SCRIPT_NAME,PATH_INFO", "--forwarder-headers"),
        _setting("header_map", v.one_of("drop", "refuse", "dangerous"), "drop", "--header-map"),
        _setting("asgi_loop", v.one_of("auto", "asyncio", "uvloop"), "auto", "--asgi-loop"),
        _setting("asgi_lifespan", v.one_of("auto", "on", "off"), "auto", "--asgi-lifespan"),
        _setting("asgi_disconnect_grace_period", v.count, 3, "--asgi-disconnect-grace-period"),
        _setting(
            "websocket_max_message_size", v.count, 16 * 1024 * 1024, "--websocket-max-message-size"
        ),
        _setting("http_parser", v.one_of("auto", "fast", "python"), "auto", "--http-parser"),
        _setting("root_path", v.text, os.environ.get("SCRIPT_NAME", ""), "--root-path"),
    ]


def _logs() -> list[Known]:
    return [
        _setting("accesslog", v.text, None, "--access-logfile"),
        _switch("disable_redirect_access_to_syslog", "--disable-redirect-access-to-syslog"),
        _setting("access_log_format", v.text, ACCESS_LOG_FORMAT, "--access-logformat"),
        _setting("errorlog", v.text, "-", "--error-logfile --log-file"),
        _setting("loglevel", v.text, "info", "--log-level"),
        _switch("capture_output", "--capture-output"),
        _setting("logger_class", v.worker_class, None, "--logger-class"),
        _setting("logconfig", v.text, None, "--log-config"),
        _setting("logconfig_dict", v.dictionary, {}),
        _setting("logconfig_json", v.text, None, "--log-config-json"),
        _setting("syslog_addr", v.text, "udp://localhost:514", "--log-syslog-to"),
        _switch("syslog", "--log-syslog"),
        _setting("syslog_prefix", v.text, None, "--log-syslog-prefix"),
        _setting("syslog_facility", v.text, "user", "--log-syslog-facility"),
        _switch("enable_stdio_inheritance", "-R --enable-stdio-inheritance"),
        _setting("statsd_host", v.statsd, None, "--statsd-host"),
        _setting("dogstatsd_tags", v.text, "", "--dogstatsd-tags"),
        _setting("statsd_prefix", v.text, "", "--statsd-prefix"),
        _switch("enable_backlog_metric", "--enable-backlog-metric"),
    ]


def _hooks() -> list[Known]:
    return [
        _hook("on_starting", 1),
        _hook("on_reload", 1),
        _hook("when_ready", 1),
        _hook("pre_fork", 2),
        _hook("post_fork", 2),
        _hook("post_worker_init", 1),
        _hook("worker_int", 1),
        _hook("worker_abort", 1),
        _hook("pre_exec", 1),
        _hook("pre_request", 2),
        _hook("post_request", 2, 3, 4),
        _hook("child_exit", 2),
        _hook("worker_exit", 2),
        Known("worker_leader", v.hook(1), hook=True, ours=True),
        _hook("nworkers_changed", 3),
        _hook("on_exit", 1),
        _hook("ssl_context", 2),
        _hook("on_dirty_starting", 1),
        _hook("dirty_post_fork", 2),
        _hook("dirty_worker_init", 1),
        _hook("dirty_worker_exit", 2),
    ]
