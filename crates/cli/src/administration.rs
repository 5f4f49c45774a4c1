//! The admin socket, and the address if there is one: where they are, and who may use them.

use std::net::ToSocketAddrs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use evener_admin::{Access, AdminSocket, Server, serve_tcp, serve_unix, socket_path};
use evener_telemetry::Log;
use tokio::net::{TcpListener, UnixListener};

use crate::Failure;
use crate::resolve::AdminSettings;
use crate::start::DEFAULT_NAME;

/// Where orders come in.
pub(crate) struct Administration {
    /// The name by which the program is found.
    pub(crate) name: String,
    /// The socket, unless it is switched off.
    pub(crate) socket: Option<AdminSocket>,
    /// Where the socket is to be once no older program has that place.
    pub(crate) place: Option<PathBuf>,
    listener: Option<UnixListener>,
    address: Option<(TcpListener, Access)>,
}

impl Administration {
    /// Listens; nothing is answered yet. `older`: a program that this one takes over from may have
    /// the place.
    pub(crate) async fn open(
        settings: &AdminSettings,
        older: bool,
        log: &Log,
    ) -> Result<Administration, Failure> {
        let address = admin_address(settings).await?;
        if settings.off {
            return Ok(Administration {
                name: DEFAULT_NAME.to_owned(),
                socket: None,
                place: None,
                listener: None,
                address,
            });
        }
        let (socket, name, listener) = admin_socket(settings, older, log).await?;
        Ok(Administration {
            name,
            socket: Some(socket),
            place: settings.socket.clone().filter(|_| older),
            listener: Some(listener),
            address,
        })
    }

    /// Answers from now on; returns how that is told.
    pub(crate) fn begin(&mut self, server: Server) -> Result<String, Failure> {
        let mut told = self.socket.as_ref().map_or_else(
            || "no socket (it is switched off)".to_owned(),
            |socket| format!("unix:{}", socket.path().display()),
        );
        let (listener, address) = (self.listener.take(), self.address.take());
        told.push_str(&administer(server, listener, address)?);
        Ok(told)
    }
}

/// Answers on the admin socket, and on the address if there is one; returns how that is told.
fn administer(
    server: Server,
    listener: Option<UnixListener>,
    address: Option<(TcpListener, Access)>,
) -> Result<String, Failure> {
    if let Some(listener) = listener {
        tokio::spawn(serve_unix(server.clone(), listener));
    }
    let Some((listener, access)) = address else {
        return Ok(String::new());
    };
    let address = listener.local_addr();
    let address = address.map_err(|error| Failure::system(error.to_string()))?;
    tokio::spawn(serve_tcp(server, listener, access));
    Ok(format!(" and http://{address}/"))
}

/// The admin socket and the name it is found by. A program that was given no name makes way for
/// one that runs already.
async fn admin_socket(
    settings: &AdminSettings,
    older: bool,
    log: &Log,
) -> Result<(AdminSocket, String, UnixListener), Failure> {
    let system = |error: evener_admin::SocketError| Failure::system(error.to_string());
    let named = settings.name.clone();
    if let Some(path) = &settings.socket {
        let name = named.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        // Beside an older program, as its pid file is; it moves when that one has gone.
        let path = match older {
            true => beside(path),
            false => path.clone(),
        };
        let (socket, listener) = AdminSocket::bind(&path, false).await.map_err(system)?;
        if let Some(mode) = settings.mode {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions)
                .map_err(|error| Failure::system(format!("{}: {error}", path.display())))?;
        }
        return Ok((socket, name, listener));
    }
    let name = named.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
    match AdminSocket::bind(&socket_path(&name), true).await {
        Ok((socket, listener)) => Ok((socket, name, listener)),
        Err(evener_admin::SocketError::InUse { .. }) if named.is_none() => {
            let name = format!("{DEFAULT_NAME}-{}", std::process::id());
            log.info(format_args!(
                "another evener has the name `{DEFAULT_NAME}`; this one is called `{name}` \
                 (--name gives it another)"
            ));
            let (socket, listener) = AdminSocket::bind(&socket_path(&name), true)
                .await
                .map_err(system)?;
            Ok((socket, name, listener))
        }
        Err(error) => Err(system(error)),
    }
}

/// Where the admin socket is as long as an older program has the place.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".2");
    PathBuf::from(name)
}

async fn admin_address(settings: &AdminSettings) -> Result<Option<(TcpListener, Access)>, Failure> {
    let Some(text) = &settings.address else {
        return Ok(None);
    };
    let wrong = |error: &dyn std::fmt::Display| format!("--admin-address {text}: {error}");
    let address = text
        .to_socket_addrs()
        .map_err(|error| Failure::usage(wrong(&format!("write HOST:PORT; {error}"))))?
        .next()
        .ok_or_else(|| Failure::usage(wrong(&"the name has no address")))?;
    let access = Access::tcp(address, settings.token.clone())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::system(wrong(&error)))?;
    Ok(Some((listener, access)))
}
