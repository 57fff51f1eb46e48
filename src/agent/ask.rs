//! One question to an instance, in each of the forms that a manifest knows.

use crate::runtime::{Container, ExecSpec};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The port accepts a connection.
pub async fn tcp(address: SocketAddr, timeout: Duration) -> Result<(), String> {
    connect(address, timeout).await.map(drop)
}

async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let port = address.port();
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(format!("nothing listens on port {port}"))
        }
        Ok(Err(error)) => Err(format!("port {port}: {error}")),
        Err(_) => Err(format!("port {port} did not answer within {} ms", timeout.as_millis())),
    }
}

/// GET of `path` is answered with a status from 200 to 399.
pub async fn http(address: SocketAddr, path: &str, timeout: Duration) -> Result<(), String> {
    let asked = format!("GET {path} on port {}", address.port());
    let stream = connect(address, timeout).await?;
    let answered = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, address.to_string())
            .header(hyper::header::USER_AGENT, "nodectl-health")
            .header(hyper::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let status = sender.send_request(request).await.map_err(|e| e.to_string())?.status();
        drop(connection);
        Ok::<_, String>(status)
    };
    match tokio::time::timeout(timeout, answered).await {
        Ok(Ok(status)) if (200..400).contains(&status.as_u16()) => Ok(()),
        Ok(Ok(status)) => Err(format!("{asked} answered {status}")),
        Ok(Err(why)) => Err(format!("{asked}: {why}")),
        Err(_) => Err(format!("{asked} did not answer within {} ms", timeout.as_millis())),
    }
}

/// The command, run in the container, exits 0; what it says is part of the reason if not.
pub async fn command(container: &Container, spec: ExecSpec, timeout: Duration) -> Result<(), String> {
    let mut session = container.exec(spec).await.map_err(|error| error.to_string())?;
    drop(session.take_stdin());
    let (stdout, stderr) = (session.take_stdout(), session.take_stderr());
    let said = async {
        let mut said = Vec::new();
        for stream in [stdout, stderr].into_iter().flatten() {
            // A chatty check must not fill the node: the reason needs a line or two.
            let _ = stream.take(4096).read_to_end(&mut said).await;
        }
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let asked = async { tokio::join!(session.wait(), said) };
    // Dropping the session kills the command.
    match tokio::time::timeout(timeout, asked).await {
        Ok((0, _)) => Ok(()),
        Ok((status, said)) if said.is_empty() => Err(format!("the check exited with status {status}")),
        Ok((status, said)) => Err(format!("the check exited with status {status}: {said}")),
        Err(_) => Err(format!("the check did not end within {} ms", timeout.as_millis())),
    }
}
