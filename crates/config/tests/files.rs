//! Whole files: what is read from good ones, what is said about bad ones, and that the pages made
//! of the definitions are up to date.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use evener_config::values::{ListenAddress, Target};
use evener_config::{
    Action, BalanceKey, Binding, Buffering, CheckKind, Config, Errors, Fallback, Fixed,
    HostPattern, OriginPattern, PathPattern, Redirect, RequestIdRule, Resend, Template,
    ValuePattern, read, reference, schema,
};
use evener_policy::balance::{Measure, Method};
use evener_policy::hedge::Delay;

fn parse(text: &str) -> Result<Config, Errors> {
    let variable = |name: &str| (name == "PORT").then(|| "9009".to_owned());
    read("evener.toml", text, &variable)
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors of a file, as a user sees them.
fn said(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("nothing is wrong with\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn the_smallest_file_has_every_default() {
    let config = good(
        "[[listener]]\naddress = \"127.0.0.1:8080\"\n[[route]]\npath = \"/\"\ncluster = \"api\"\n\
         [cluster.api]\nendpoints = [\"127.0.0.1:9001\", { address = \"unix:/run/app.sock\", max_conns = 3 }]\n",
    );
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].action, Action::Cluster("api".to_owned()));
    assert_eq!(config.limits, evener_config::Limits::default());
    assert_eq!(config.timeouts, evener_config::Timeouts::default());
    assert_eq!(config.log, evener_config::Log::default());
    assert_eq!(config.clusters[0].endpoints.len(), 2);
    assert_eq!(
        config.clusters[0].endpoints[1].target,
        Target::Unix("/run/app.sock".into())
    );
    assert_eq!(config.clusters[0].endpoints[1].in_flight_max, Some(3));
    assert_eq!(config.graceful_shutdown, Duration::from_secs(30));
    assert!(config.app.is_none());
}

#[test]
fn the_application_is_a_cluster_that_gets_the_rest() {
    let config = good(
        "[app]\ntarget = \"main:app\"\nworkers = 2\nserver_header = false\nreload_delay = \"1s\"\n\
         [[route]]\npath = \"/other\"\ncluster = \"other\"\n\
         [cluster.other]\nendpoints = [\"127.0.0.1:1\"]\n",
    );
    assert_eq!(
        config.listeners[0].address,
        ListenAddress::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 8000
        }
    );
    assert_eq!(config.routes[1].action, Action::Cluster("app".to_owned()));
    let app = config.app.unwrap();
    assert_eq!(app.target.as_deref(), Some("main:app"));
    let flags: Vec<(&str, Option<&str>)> = app
        .flags
        .iter()
        .map(|flag| (flag.name.as_str(), flag.value.as_deref()))
        .collect();
    assert_eq!(
        flags,
        [
            ("workers", Some("2")),
            ("no-server-header", None),
            ("reload-delay", Some("1"))
        ]
    );
}

#[test]
fn the_application_is_a_cluster_like_any_other() {
    let config = good("[app]\n[cluster.app]\nbreaker = {}\n");
    // What is not said is as it is best for workers.
    let app = &config.clusters[0];
    assert_eq!((app.name.as_str(), app.endpoints.len()), ("app", 0));
    assert_eq!(app.method, Method::LeastInFlight);
    assert_eq!(app.resend, Resend::Safe);
    assert!(app.sharing.guard.breaker.is_some());

    let config = good(
        "[app]\n[cluster.app]\npolicy = { hash = \"$arg_a\" }\nnext_upstream = \"error\"\n\
         sticky = { cookie = \"srv\" }\nhedge = { after = \"50ms\" }\nqueue = 7\n\
         fallback = { status = 503 }\ntimeouts = { request = \"9s\" }\n\
         [[route]]\npath = \"/a\"\ncluster = \"app\"\n",
    );
    assert_eq!(config.clusters[0].method, Method::Hash);
    assert_eq!(config.clusters[0].queue_length, 7);
    // Those of the route that is written, and of the one that gets the rest.
    assert_eq!(config.routes.len(), 2);
    for route in &config.routes {
        assert_eq!(route.action, Action::Cluster("app".to_owned()));
        let text = Template::parse("$arg_a").unwrap();
        assert_eq!(route.key, BalanceKey::Text(text));
        assert!(matches!(route.resend, Resend::NextUpstream(_)));
        assert!(route.binding.is_some() && route.hedge.is_some() && route.fallback.is_some());
        assert_eq!(route.timeouts.request, Some(Duration::from_secs(9)));
    }
    let plain = good("[app]\n[cluster.app]\npolicy = \"round_robin\"\n");
    assert_eq!(plain.clusters[0].method, Method::RoundRobin);
    let lonely = said(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\ncluster = \"app\"\n[cluster.app]\nqueue = 7\n",
    );
    assert!(
        lonely.contains("5:10: [cluster.NAME] needs `endpoints`"),
        "{lonely}"
    );
}

#[test]
fn deadlines_are_inherited_from_the_general_to_the_particular() {
    let config = good(
        "[[listener]]\naddress = \"[::]:${PORT}\"\n[timeouts]\nfirst_byte = 7\nconnect = \"${C:-250ms}\"\n\
         [[route]]\ncluster = \"a\"\nlimits = { body = \"1k\" }\ntimeouts = { request = \"2s\" }\n\
         [cluster.a]\nendpoints = [\"127.0.0.1:1\"]\ntimeouts = { first_byte = \"off\", queue = \"1s\" }\n",
    );
    let timeouts = &config.routes[0].timeouts;
    assert_eq!(timeouts.connect, Some(Duration::from_millis(250)));
    assert_eq!(timeouts.first_byte, None);
    assert_eq!(timeouts.queue_wait, Some(Duration::from_secs(1)));
    assert_eq!(timeouts.request, Some(Duration::from_secs(2)));
    assert_eq!(config.timeouts.first_byte, Some(Duration::from_secs(7)));
    assert_eq!(config.routes[0].body_bytes, Some(1024));
    assert_eq!(config.listeners[0].address.to_string(), "[::]:9009");
}

#[test]
fn conditions_of_routes() {
    let config = good(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nname = \"in\"\n[cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n\
         [[route]]\ncluster = \"a\"\nlistener = \"in\"\nhost = [\"Example.com\", \"*.example.com\"]\n\
         path = { regex = \"^/v[0-9]\" }\nmethod = [\"GET\", \"HEAD\"]\n\
         header = { X-Version = \"2\", X-Any = { present = true } }\nquery = { q = { regex = \"^a\" } }\n",
    );
    let matcher = &config.routes[0].matcher;
    assert_eq!(
        matcher.hosts,
        [
            HostPattern::Exact("example.com".to_owned()),
            HostPattern::Below(".example.com".to_owned())
        ]
    );
    assert!(matches!(&matcher.path, PathPattern::Regex(regex) if regex.as_str() == "^/v[0-9]"));
    assert!(matches!(&matcher.headers[1], (name, ValuePattern::Present) if name == "X-Any"));
    assert!(matches!(&matcher.query[0], (name, ValuePattern::Regex(_)) if name == "q"));
}

#[test]
fn all_errors_are_found_at_once_and_say_what_was_meant() {
    let errors = said(
        "backlog = \"many\"\n\
         [[listener]]\naddres = \"127.0.0.1:8080\"\n\
         [[route]]\npath = \"api\"\ncluster = \"ap\"\n\
         [cluster.api]\npolcy = \"ip_hash\"\nendpoints = [\"127.0.0.1\", 7]\n\
         [timeouts]\nconnect = \"10 parsecs\"\n",
    );
    let lines: Vec<&str> = errors.lines().collect();
    let expected = [
        "evener.toml:1:11: `backlog`: `many` is not a whole number from 1 to 65535",
        "evener.toml:2:1: [[listener]] needs `address`: an address to listen on",
        "evener.toml:3:1: unknown key `addres` in [[listener]]; did you mean `address`?",
        "evener.toml:5:8: `route.path`: `api` is not a path: it begins with `/` and has no `?`",
        "evener.toml:6:11: there is no cluster `ap`; did you mean `api`?",
        "evener.toml:8:1: unknown key `polcy` in [cluster.NAME]; did you mean `policy`?",
        "evener.toml:9:14: `cluster.api.endpoints`: `127.0.0.1` is not an address: write host:port, [::1]:port or unix:/path",
        "evener.toml:9:27: `cluster.api.endpoints` is the number 7; it must be an address; or a table, see endpoints",
        "evener.toml:11:11: `timeouts.connect`: `10 parsecs` is not a time: write 10, 0.5, 500ms, 10s, 2m or 1h, or `off`",
    ];
    assert_eq!(lines, expected, "{errors}");
}

#[test]
fn two_that_do_not_go_together_are_both_shown() {
    let base = "[[listener]]\naddress = \"127.0.0.1:1\"\n[cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n[[route]]\ncluster = \"a\"\n";
    for (more, expected) in [
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\n",
            "evener.toml:8:11: `127.0.0.1:1` is listened on twice\n  evener.toml:2:11: here first",
        ),
        (
            "[[route]]\ncluster = \"a\"\n",
            "evener.toml:7:1: this route has the conditions of an earlier one and would never be taken\n  evener.toml:5:1: the earlier one",
        ),
        (
            "[cluster.b]\nendpoints = [\"unix:/a\", \"unix:/a\"]\n",
            "evener.toml:8:25: `unix:/a` is in this cluster twice\n  evener.toml:8:14: here first",
        ),
        (
            "cluster = \"a\"\n",
            "evener.toml:7:1: `cluster` is given twice\n  evener.toml:6:1: `cluster` is given here first",
        ),
        (
            "[cluster.app]\nendpoints = [\"127.0.0.1:3\"]\n[app]\n",
            "evener.toml:8:1: `cluster.app` is about the workers of `[app]` and has no `endpoints`; other endpoints need a cluster of another name\n  evener.toml:9:2: `[app]` is here",
        ),
    ] {
        assert_eq!(said(&format!("{base}{more}")), expected);
    }
}

#[test]
fn policies() {
    let base = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\ncluster = \"a\"\n[cluster.a]\n\
        endpoints = [{ address = \"127.0.0.1:1\", weight = 3 }, { address = \"unix:/b\", backup = true }]\n";
    let text = |text: &str| BalanceKey::Text(Template::parse(text).unwrap());
    for (policy, method, key) in [
        ("\"round_robin\"", Method::RoundRobin, BalanceKey::None),
        ("{ maglev = \"$arg_a\" }", Method::Maglev, text("$arg_a")),
        (
            "{ bounded_load = \"x\", over_percent = 10 }",
            Method::BoundedLoad { over_percent: 10 },
            text("x"),
        ),
        (
            "{ least_time = \"last_byte\", in_flight = true }",
            Method::LeastTime {
                measure: Measure::LastByte,
                in_flight: true,
            },
            BalanceKey::None,
        ),
    ] {
        let config = good(&format!("{base}policy = {policy}\n"));
        assert_eq!(
            (config.clusters[0].method, &config.clusters[0].key),
            (method, &key),
            "{policy}"
        );
        assert_eq!(config.routes[0].key, key);
        assert_eq!(config.clusters[0].endpoints[0].weight, 3);
        assert!(config.clusters[0].endpoints[1].backup);
    }
    for (policy, expected) in [
        ("\"roundrobin\"", "did you mean `round_robin`?"),
        (
            "\"ip_hash\"",
            "evener.toml:6:78: there is no `backup` with this policy; use `priority`\n  evener.toml:7:1: the policy",
        ),
        (
            "{ hash = \"$cokie_a\" }",
            "evener.toml:7:19: `cluster.a.policy.hash`: there is no variable `$cokie_a`",
        ),
        (
            "{ maglev = \"x\", consistent = true }",
            "`consistent` goes with `hash`, not with `maglev`",
        ),
        (
            "{ consistent = true }",
            "`policy` needs one of hash, maglev, bounded_load, least_time",
        ),
    ] {
        let errors = said(&format!("{base}policy = {policy}\n"));
        assert!(errors.contains(expected), "{policy}\n{errors}");
    }
}

#[test]
fn health_checks() {
    let base = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\ncluster = \"a\"\n[cluster.a]\n\
        endpoints = [\"127.0.0.1:1\"]\n[cluster.a.health_check]\n";
    let config = good(&format!(
        "{base}interval = \"2s\"\nfall = 3\nstatus = [200, \"300-302\"]\nheader = {{ X-A = \"\" }}\nport = 9\n"
    ));
    let check = config.clusters[0].health.clone().unwrap();
    assert_eq!(check.settings.interval_unhealthy, Duration::from_secs(2));
    assert_eq!((check.settings.fall, check.port), (3, Some(9)));
    let CheckKind::Http { expected, .. } = check.kind else {
        panic!("`http` is the default");
    };
    assert_eq!(expected.statuses, [200..=200, 300..=302]);
    assert_eq!(expected.headers, [("x-a".to_owned(), None)]);
    for (text, expected) in [
        ("interval = 0", "`interval`: without a pause"),
        (
            "type = \"tcp\"\npath = \"/x\"",
            "`path` goes with `type = \"http\"`",
        ),
        ("status = \"2xx\"", "`2xx` is not a status"),
        ("type = \"icmp\"", "`icmp` is none of its values"),
        (
            "type = \"grpc\"\nstatus = 200",
            "`status` goes with `type = \"http\"`",
        ),
        ("service = \"x\"", "`service` goes with `type = \"grpc\"`"),
    ] {
        let errors = said(&format!("{base}{text}\n"));
        assert!(errors.contains(expected), "{text}\n{errors}");
    }
}

#[test]
fn what_is_wrong_with_whole_files() {
    for (text, expected) in [
        ("", "evener.toml:1:1: the file has no `[[listener]]`"),
        (
            "",
            "evener.toml:1:1: the file has no `[[route]]` and no `[app]`",
        ),
        ("a = = 1", "evener.toml:1:5: this is not TOML"),
        (
            "[listener]\naddress = \"127.0.0.1:1\"",
            "`listener` is a list of tables: write `[[listener]]`",
        ),
        (
            "[[listener]]\naddress = \"${NOPE}\"",
            "evener.toml:2:11: `listener.address`: the environment variable `NOPE` is not set",
        ),
        (
            "[[route]]\nheader = { \"a b\" = \"c\" }",
            "`a b` cannot be the name of a header field",
        ),
        (
            "[[route]]\npath = { exact = \"/\", regex = \"x\" }",
            "`path` has only one of `exact` and `regex`",
        ),
        (
            "[[route]]\npath = { regex = \"(\" }",
            "is not a regular expression: unclosed group",
        ),
        (
            "[[listener]]\naddress = \"unix:/run/a\"\ntls = { cert = \"a\" }",
            "evener.toml:3:1: `tls` is for TCP: over a unix socket nobody speaks it",
        ),
        (
            "[response_fields]\nContent-Length = \"3\"",
            "belongs to the connection",
        ),
        (
            "[app]\nworkers = \"8..2\"",
            "`8..2` is not a number of workers",
        ),
    ] {
        let errors = said(text);
        assert!(errors.contains(expected), "{text}\n{errors}");
    }
}

#[test]
fn no_cut_or_change_of_a_file_makes_reading_fail_badly() {
    let text = "[[listener]]\naddress = \"127.0.0.1:1\"\n[cluster.a]\nendpoints = [{ address = \"127.0.0.1:1\" }]\n\
        [[route]]\ncluster = \"a\"\npath = { exact = \"/\" }\n[timeouts]\nconnect = 3\n[app]\nworkers = 2\n";
    for end in 0..text.len() {
        let _ = parse(&text[..end]);
        for with in ["\"", "[", "]", "{", "=", "\n", "ß", "${", "\0"] {
            let _ = parse(&format!("{}{with}{}", &text[..end], &text[end + 1..]));
        }
    }
}

/// Set `EVENER_WRITE=1` to write the pages.
#[test]
fn the_committed_pages_are_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, made) in [
        ("reference.md", reference()),
        ("evener.schema.json", schema()),
    ] {
        let path = docs.join(name);
        if std::env::var_os("EVENER_WRITE").is_some() {
            std::fs::create_dir_all(&docs).unwrap();
            std::fs::write(&path, &made).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == made,
            "docs/{name} is not what `keys.rs` says: EVENER_WRITE=1 cargo test -p evener-config"
        );
    }
}

/// A file with one cluster, and a route to it that says this besides.
fn routed(more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n\
         [[route]]\n{more}\n"
    )
}

#[test]
fn filters_of_routes() {
    let config = good(&routed(
        "cluster = \"a\"\nstrip_prefix = \"/api/\"\n\
         rewrite = [{ regex = \"^/a/(.*)$\", to = \"/b/$1?x=$arg_y\" }, { regex = \"^/c\", to = \"/d?\" }]\n\
         request_id = \"keep\"\nsecurity_headers = { frame_options = \"off\" }\ncompress = { level = 9 }\n\
         request_fields = { set = { Host = \"x\", X-A = \"$remote_addr\" }, remove = \"X-B\" }\n\
         response_fields = { rename = { X-C = \"X-D\" } }\n\
         cors = { origins = [\"https://A.test\", \"https://*.b.test:8443\"], headers = \"X-E\", credentials = true }",
    ));
    let filters = &config.routes[0].filters;
    assert_eq!(filters.strip_prefix.as_deref(), Some("/api"));
    let [first, second] = &filters.rewrite[..] else {
        panic!("two rewrites")
    };
    assert_eq!(first.path, Template::parse("/b/$1").unwrap());
    assert_eq!(first.query, Some(Template::parse("x=$arg_y").unwrap()));
    assert!(!first.drop_query && second.drop_query);
    assert_eq!(filters.request_id, RequestIdRule::Keep);
    let names: Vec<_> = filters.security.iter().map(|field| field.name).collect();
    assert_eq!(
        names,
        [
            "Strict-Transport-Security",
            "X-Content-Type-Options",
            "Referrer-Policy"
        ]
    );
    let compress = filters.compress.as_ref().unwrap();
    assert_eq!((compress.level, compress.min_bytes), (9, 1024));
    // `true` means the defaults of the table.
    let on = good(&routed("cluster = \"a\"\ncompress = true"));
    let table = good(&routed("cluster = \"a\"\ncompress = {}"));
    assert_eq!(
        on.routes[0].filters.compress,
        table.routes[0].filters.compress
    );
    assert_eq!(filters.request.set.len(), 2);
    assert_eq!(
        filters.cors.as_ref().unwrap().origins[1],
        OriginPattern::Below {
            scheme: "https://".to_owned(),
            suffix: ".b.test:8443".to_owned()
        }
    );
}

#[test]
fn answers_of_our_own() {
    let text = routed("redirect = \"https://$host$request_uri\"")
        + "[[route]]\npath = \"/gone\"\nrespond = 410\n\
           [[route]]\npath = \"/r\"\nredirect = { to = \"/x\", status = \"301\" }\n\
           [[route]]\npath = \"/s\"\nfiles = \"/srv\"\ncluster = \"a\"\n\
           [[route]]\npath = \"/t\"\nfiles = { root = \"/srv\", precompressed = \"off\" }\n";
    let config = good(&text);
    let actions: Vec<&Action> = config.routes.iter().map(|route| &route.action).collect();
    assert!(matches!(
        actions[0],
        Action::Redirect(Redirect { status: 307, .. })
    ));
    assert!(matches!(
        actions[1],
        Action::Respond(Fixed { status: 410, .. })
    ));
    assert!(matches!(
        actions[2],
        Action::Redirect(Redirect { status: 301, .. })
    ));
    assert_eq!(actions[3].cluster(), Some("a"));
    let Action::Files { files, otherwise } = actions[4] else {
        panic!("{:?}", actions[4])
    };
    assert_eq!(otherwise, &None);
    assert!(files.precompressed.is_empty() && files.index == ["index.html"]);
}

#[test]
fn filters_that_cannot_work_are_refused() {
    for (more, word) in [
        (
            "cluster = \"a\"\nredirect = \"/x\"",
            "a route has only one of `cluster` and `redirect`",
        ),
        ("respond = 200\nredirect = \"/x\"", "only one of"),
        ("respond = 200\ncompress = true", "`compress` has no effect"),
        ("respond = 99", "`99` is not a whole number from 200 to 599"),
        (
            "cluster = \"a\"\nrequest_fields = { remove = \"Content-Length\" }",
            "belongs to the connection",
        ),
        (
            "cluster = \"a\"\nrequest_fields = { remove = \"host\" }",
            "`Host` can only be `set`",
        ),
        (
            "cluster = \"a\"\ncors = { origins = \"*\", credentials = true }",
            "any page act as your users",
        ),
        (
            "cluster = \"a\"\ncors = { origins = \"example.com\" }",
            "is not an origin",
        ),
        (
            "cluster = \"a\"\nrewrite = { regex = \"^/(a)\", to = \"/$2\" }",
            "no group 2",
        ),
        (
            "files = { root = \"/srv\", index = \"../x\" }",
            "is not the name of a file",
        ),
        (
            "cluster = \"a\"\ncompress = { types = \"html\" }",
            "is not a media type",
        ),
    ] {
        let said = said(&routed(more));
        assert!(said.contains(word), "{more}: {said}");
    }
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\nhttps_redirect = true\ntls = { cert = \"c\" }\n\
                [[route]]\nrespond = 200\n";
    assert!(said(text).contains("for listeners without `tls`"));
}

#[test]
fn how_endpoints_are_spoken_to() {
    let base = "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\ncluster = \"a\"\n[cluster.a]\n";
    let plain = "endpoints = [\"127.0.0.1:1\"]\n";
    let config = good(&format!(
        "{base}{plain}protocol = \"h2\"\ntls = {{ server_name = \"x.test\", cert = \"c\", key = \"k\" }}\n"
    ));
    let speech = &config.clusters[0].endpoints[0].speech;
    let tls = speech.tls.as_ref().unwrap();
    assert!(speech.http2 && tls.verify);
    assert_eq!(tls.server_name.as_deref(), Some("x.test"));
    let asks_by_http2 = |text: &str| {
        let config = good(&format!("{base}{plain}{text}\n"));
        let check = config.clusters[0].health.clone().unwrap();
        matches!(check.kind, CheckKind::Http { http2: true, .. })
    };
    assert!(!asks_by_http2("health_check = {}"));
    assert!(asks_by_http2("protocol = \"h2\"\nhealth_check = {}"));
    assert!(!asks_by_http2(
        "protocol = \"h2\"\nhealth_check = { protocol = \"http1\" }"
    ));
    for (text, expected) in [
        ("protocol = \"h2\"\nproxy_protocol = \"v1\"", "are shared"),
        ("tls = { key = \"k\" }", "`key` goes with `cert`"),
        ("tls = { verify = false, ca = \"c\" }", "`ca` has no effect"),
        (
            "health_check = { type = \"tcp\", protocol = \"h2\" }",
            "`protocol` goes with `type = \"http\"`",
        ),
        (
            "health_check = { tls = false }",
            "`tls` of a check goes with `tls` of the cluster",
        ),
        (
            "tls = {}\nhealth_check = { type = \"tcp\", tls = false }",
            "`tls` goes with `type = \"http or grpc\"`",
        ),
        ("protocol = \"h3\"", "`h3` is none of its values"),
    ] {
        let errors = said(&format!("{base}{plain}{text}\n"));
        assert!(errors.contains(expected), "{text}\n{errors}");
    }
    let bounded =
        "endpoints = [{ address = \"127.0.0.1:1\", max_connections = 2, max_conns = 3 }]\n";
    let config = good(&format!(
        "{base}{bounded}health_check = {{ resend = false }}\n"
    ));
    let cluster = &config.clusters[0];
    assert_eq!(cluster.endpoints[0].connections_max, Some(2));
    assert!(!cluster.health.as_ref().unwrap().resend);
    let errors = said(&format!("{base}{bounded}protocol = \"h2\"\n"));
    assert!(
        errors.contains("`max_connections` is for HTTP/1.1"),
        "{errors}"
    );
    for (endpoint, expected) in [
        ("unix:/x", "`tls` is for TCP"),
        ("srv:_x._tcp.a.test", "needs a `server_name`"),
    ] {
        let errors = said(&format!("{base}endpoints = [\"{endpoint}\"]\ntls = {{}}\n"));
        assert!(errors.contains(expected), "{endpoint}\n{errors}");
    }
}

#[test]
fn listeners_say_what_their_clients_may_speak() {
    let rest = "[[route]]\ncluster = \"a\"\n[cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n";
    let listener = |text: &str| format!("[[listener]]\naddress = \"127.0.0.1:1\"\n{text}\n{rest}");
    let config = good(&listener(
        "http2_streams = 5\nproxy_protocol = \"10.0.0.0/8\"",
    ));
    assert_eq!(config.listeners[0].http2.unwrap().streams_max, 5);
    let relays = config.listeners[0].proxied.as_ref().unwrap();
    assert!(relays.believes(Some([10, 1, 2, 3].into())));
    assert!(!relays.believes(Some([11, 1, 2, 3].into())));
    assert!(
        good(&listener("http2 = false")).listeners[0]
            .http2
            .is_none()
    );
    let unix = |peers: &str| {
        format!("[[listener]]\naddress = \"unix:/x\"\nproxy_protocol = \"{peers}\"\n{rest}")
    };
    let relays = good(&unix("unix")).listeners[0].proxied.clone().unwrap();
    assert!(relays.believes(None) && !relays.believes(Some([127, 0, 0, 1].into())));
    let errors = said(&unix("10.0.0.0/8"));
    assert!(errors.contains("have no address: write"), "{errors}");
    let errors = said(&listener("http2 = false\nhttp2_streams = 5"));
    assert!(
        errors.contains("no effect with `http2 = false`"),
        "{errors}"
    );
}

/// A file with a cluster of which this is said.
fn clustered(more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\ncluster = \"a\"\n\
         [cluster.b]\nendpoints = [\"127.0.0.1:2\"]\n\
         [cluster.a]\nendpoints = [\"127.0.0.1:1\"]\n{more}\n"
    )
}

#[test]
fn guards_of_clusters() {
    let config = good(&clustered(
        "max_requests = 5\nbreaker = { consecutive_failures = 3, latency = \"200ms\" }\n\
         concurrency = {}\nshed = true\nfallback = { cluster = \"b\" }\n\
         retry_backoff = {}\ntimeouts = { per_try = \"1s\", queue = \"2s\" }",
    ));
    let cluster = &config.clusters[0];
    let guard = &cluster.sharing.guard;
    assert_eq!((guard.requests_max, guard.waited_max_ms), (Some(5), 2000));
    let breaker = guard.breaker.unwrap();
    assert_eq!(breaker.consecutive_failures, Some(3));
    assert_eq!(breaker.error_percent, Some(50));
    assert_eq!(breaker.latency.unwrap().quantile_percent, 95);
    assert_eq!(guard.concurrency.unwrap().limit_first, 20);
    // `true` means the defaults of the table, and those of the policy.
    assert_eq!(guard.shed, Some(evener_policy::shed::Settings::default()));
    let table = good(&clustered("shed = {}"));
    assert_eq!(table.clusters[0].sharing.guard.shed, guard.shed);
    let route = &config.routes[0];
    assert_eq!(route.fallback, Some(Fallback::Cluster("b".to_owned())));
    assert_eq!(route.timeouts.per_try, Some(Duration::from_secs(1)));
    assert_eq!(route.backoff.unwrap().base, Duration::from_millis(25));
}

#[test]
fn hedges_of_clusters() {
    let hedge = |text: &str| good(&clustered(text)).routes[0].hedge;
    assert_eq!(hedge(""), None);
    let fixed = hedge("hedge = { after = \"50ms\" }").unwrap();
    assert_eq!(fixed.delay, Delay::After(Duration::from_millis(50)));
    assert_eq!(fixed.most, 1);
    let learnt = hedge("hedge = { quantile = 95, max = 2 }").unwrap();
    let least = Duration::from_millis(1);
    let percent = 95;
    assert_eq!(learnt.delay, Delay::Quantile { percent, least });
    assert_eq!(learnt.most, 2);
    for (more, word) in [
        ("hedge = {}", "needs one of after, quantile"),
        ("hedge = { after = 1, quantile = 9 }", "has only one of"),
        (
            "hedge = { after = 1, least = 1 }",
            "`least` goes with `quantile`",
        ),
        ("hedge = { quantile = 100 }", "from 1 to 99"),
        ("hedge = { after = 1, max = 0 }", "from 1 to 8"),
    ] {
        let text = said(&clustered(more));
        assert!(text.contains(word), "{more}: {text}");
    }
}

#[test]
fn bodies_that_are_kept() {
    let kept = |cluster: &str, route: &str| {
        let text = clustered(cluster).replacen("[[route]]\n", &format!("[[route]]\n{route}\n"), 1);
        good(&text).routes[0].buffering
    };
    assert_eq!(kept("", ""), Buffering::default(), "off by default");
    let usual = kept("buffer_requests = true\nbuffer_responses = {}", "");
    assert_eq!(usual.requests.unwrap().memory, 64 * 1024);
    assert_eq!(usual.responses.unwrap().file, 1 << 30);
    let own = kept(
        "buffer_requests = { memory = \"1m\" }\nbuffer_responses = true",
        "buffer_responses = { memory = \"1k\", file = 0 }",
    );
    assert_eq!(own.requests.unwrap().memory, 1 << 20);
    let bounds = own.responses.unwrap();
    assert_eq!((bounds.memory, bounds.file), (1024, 0));
    let off = kept("buffer_requests = true", "buffer_requests = false");
    assert_eq!(off, Buffering::default(), "the route has the last word");
    let spill = good(&format!(
        "{}[spill]\ndirectory = \"/var/spill\"\ntotal = \"off\"\n",
        clustered("")
    ));
    assert_eq!(spill.spill.directory.to_str(), Some("/var/spill"));
    assert_eq!(spill.spill.total, None);
    for (file, word) in [
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nrespond = 200\nbuffer_requests = true\n",
            "`buffer_requests` has no effect here",
        ),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\n[[route]]\nfiles = \"/x\"\nbuffer_responses = {}\n",
            "`buffer_responses` has no effect here",
        ),
    ] {
        assert!(said(file).contains(word), "{file}: {}", said(file));
    }
}

#[test]
fn sticky_cookies() {
    let config = good(&clustered(
        "sticky = { cookie = \"at\", ttl = \"1h\", http_only = false, same_site = \"strict\" }",
    ));
    let Some(Binding::Cookie {
        attributes, again, ..
    }) = &config.routes[0].binding
    else {
        panic!("{:?}", config.routes[0].binding)
    };
    assert_eq!(attributes, "; Path=/; Max-Age=3600; SameSite=Strict");
    assert!(again);
    assert_eq!(
        config.routes[0].sticky,
        Some(Template::parse("$cookie_at").unwrap())
    );
    for (more, word) in [
        ("sticky = { cookie = \"a\", learn = \"b\" }", "only one of"),
        ("sticky = { ttl = \"1h\" }", "needs one of"),
        (
            "sticky = { learn = \"b\", secure = true }",
            "`secure` does not go with `learn`",
        ),
        ("sticky = { cookie = \"a b\" }", "cannot be"),
        (
            "sticky = { cookie = \"a\", same_site = \"none\" }",
            "only with `secure = true`",
        ),
        ("fallback = { cluster = \"c\" }", "there is no cluster `c`"),
        ("fallback = { cluster = \"a\" }", "its own fallback"),
        (
            "fallback = { cluster = \"b\", status = 200 }",
            "`status` goes without `cluster`",
        ),
        ("shed = { low = [90, 70] }", "two percentages"),
        ("breaker = { error_percent = 101 }", "from 0 to 100"),
    ] {
        let said = said(&clustered(more));
        assert!(said.contains(word), "{more}: {said}");
    }
}
