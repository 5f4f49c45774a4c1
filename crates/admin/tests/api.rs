//! The API over its sockets: every path, who is let in, and what a client can do wrong.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use evener_admin::{
    Access, AdminSocket, ClusterReport, Command, Order, Receipt, Server, SocketError, Source,
    StatusReport, WorkerReport, WorkersReport, serve_tcp, serve_unix,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;

struct Fixed;

impl Source for Fixed {
    fn status(&self) -> StatusReport {
        let worker = WorkerReport {
            pid: 7,
            state: "ready".to_owned(),
            ..WorkerReport::default()
        };
        StatusReport {
            workers: vec![worker],
            ..StatusReport::default()
        }
    }

    fn clusters(&self) -> Vec<ClusterReport> {
        vec![ClusterReport {
            name: "app".to_owned(),
            ..ClusterReport::default()
        }]
    }

    fn metrics(&self) -> String {
        "evener_up 1\n".to_owned()
    }

    fn is_ready(&self) -> bool {
        false
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("evener-admin-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// A server whose commands are obeyed, save for a scale to 99.
fn server() -> Server {
    let (orders, mut received) = mpsc::channel::<Order>(4);
    tokio::spawn(async move {
        while let Some(order) = received.recv().await {
            let message = format!("{:?}", order.command);
            let answer = match order.command {
                Command::Scale(99) => Err("too many".to_owned()),
                Command::Reload => Ok(Receipt {
                    message,
                    generation: Some(3),
                }),
                _ => Ok(Receipt {
                    message,
                    generation: None,
                }),
            };
            order.reply.send(answer).unwrap();
        }
    });
    Server::new(Arc::new(Fixed), orders)
}

async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &str,
    body: &str,
) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn every_path_of_the_document_answers() {
    let path = folder("paths").join("x.sock");
    let (socket, listener) = AdminSocket::bind(&path, true).await.unwrap();
    tokio::spawn(serve_unix(server(), listener));
    let get = async |target: &str| {
        let stream = UnixStream::connect(socket.path()).await.unwrap();
        ask(stream, &format!("GET {target} HTTP/1.1"), "").await
    };
    let post = async |target: &str, body: &str| {
        let stream = UnixStream::connect(socket.path()).await.unwrap();
        ask(stream, &format!("POST {target} HTTP/1.1"), body).await
    };
    let (status, document) = get("/api/v1/openapi.json").await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    for (target, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let status = match method.as_str() {
                "get" => get(target).await.0,
                _ if target.contains("endpoints") => {
                    post(target, "{\"cluster\": \"a\", \"endpoint\": \"b\"}")
                        .await
                        .0
                }
                _ => post(target, "{\"workers\": 2}").await.0,
            };
            let expected = methods[method]["responses"].get(status.to_string());
            assert!(expected.is_some(), "{method} {target}: {status}");
            assert_ne!(status, 404, "{target}");
        }
    }
    let workers: WorkersReport = serde_json::from_str(&get("/api/v1/workers").await.1).unwrap();
    assert_eq!(workers.workers[0].pid, 7);
    let status: serde_json::Value = serde_json::from_str(&get("/api/v1/status").await.1).unwrap();
    let schema = &document["components"]["schemas"]["Status"]["properties"];
    let names = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(
        names(&status),
        names(schema),
        "the document tells the truth"
    );
    let worker = &document["components"]["schemas"]["Worker"]["properties"];
    assert_eq!(names(&status["workers"][0]), names(worker));
    let traffic = &document["components"]["schemas"]["Traffic"]["properties"];
    assert_eq!(names(&status["traffic"]), names(traffic));
    assert_eq!(get("/readyz").await.0, 503);
    assert_eq!(get("/metrics").await.1, "evener_up 1\n");
    assert_eq!(get("/").await.0, 404, "the dashboard is for browsers");
    assert_eq!(get("/nothing").await.0, 404);
    assert_eq!(get("/api/v1/reload").await.0, 405);
    assert_eq!(post("/api/v1/status", "").await.0, 405);
    let (status, body) = post("/api/v1/reload", "").await;
    assert_eq!((status, body.contains("\"generation\":3")), (202, true));
    let add = "{\"cluster\": \"a\", \"endpoint\": \"127.0.0.1:1\", \"weight\": 3}";
    let (status, body) = post("/api/v1/endpoints/add", add).await;
    assert_eq!(
        (status, body.contains("weight: Some(3)")),
        (202, true),
        "{body}"
    );
    for (target, body) in [
        ("add", "{\"cluster\": \"a\"}"),
        (
            "add",
            "{\"cluster\": \"a\", \"endpoint\": \"b\", \"wieght\": 3}",
        ),
        ("drain", add),
    ] {
        let (status, _) = post(&format!("/api/v1/endpoints/{target}"), body).await;
        assert_eq!(status, 422, "{target} {body}");
    }
    assert_eq!(post("/api/v1/scale", "{\"workers\": 99}").await.0, 409);
    assert_eq!(post("/api/v1/scale", "{\"workers\": \"x\"}").await.0, 422);
    assert_eq!(post("/api/v1/scale", &" ".repeat(5000)).await.0, 413);
}

#[tokio::test]
async fn the_socket_is_private_and_its_name_is_respected() {
    let path = folder("socket").join("x.sock");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path.parent().unwrap(), open).unwrap();
    let refused = AdminSocket::bind(&path, true).await.unwrap_err();
    assert!(
        matches!(refused, SocketError::ForeignFolder(_)),
        "{refused}"
    );
    std::fs::remove_dir(path.parent().unwrap()).unwrap();
    let (first, listener) = AdminSocket::bind(&path, true).await.unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let refused = AdminSocket::bind(&path, true).await.unwrap_err();
    let own = std::process::id().to_string();
    assert!(refused.to_string().contains(&own) && refused.to_string().contains("--name"));
    // A program that was killed leaves its socket; the next one takes the name.
    drop(listener);
    let (second, _listener) = AdminSocket::bind(&path, true).await.unwrap();
    drop(first);
    assert!(path.exists(), "the name is the second one's now");
    drop(second);
    assert!(!path.exists());
    let long = folder("long").join("x".repeat(100));
    assert!(matches!(
        AdminSocket::bind(&long, true).await,
        Err(SocketError::TooLong(_))
    ));
}

#[tokio::test]
async fn the_address_asks_for_the_token_and_serves_the_dashboard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let access = Access::tcp(address, Some("secret".to_owned())).unwrap();
    tokio::spawn(serve_tcp(server(), listener, access));
    let get = async |head: &str| ask(TcpStream::connect(address).await.unwrap(), head, "").await;
    assert_eq!(get("GET /api/v1/status HTTP/1.1").await.0, 401);
    let status = get("GET /api/v1/status HTTP/1.1\r\nAuthorization: Bearer secret").await;
    assert_eq!(status.0, 200);
    assert_eq!(get("POST /api/v1/drain HTTP/1.1").await.0, 401);
    let (status, page) = get("GET / HTTP/1.1").await;
    assert_eq!(status, 200);
    assert!(page.contains("<title>Evener</title>"));
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "nothing from elsewhere"
    );
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let path = folder("head").join("x.sock");
    let (socket, listener) = AdminSocket::bind(&path, true).await.unwrap();
    tokio::spawn(serve_unix(server(), listener));
    let mut stream = UnixStream::connect(socket.path()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let mut answer = Vec::new();
    for _ in 0..64 {
        if stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
        "{answer:?}"
    );
}
