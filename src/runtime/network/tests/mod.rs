//! The whole network, in namespaces: what gets through, what does not, and what is left behind.

mod attacks;
mod frames;
mod life;
mod neighbours;
mod reach;
mod space;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use space::{Host, Space};

/// Whether these tests can run here; says so if not.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A host, its open network and containers attached to it.
struct Scene {
    host: Host,
    network: Arc<Network>,
    containers: Vec<(Space, Attachment)>,
}

impl Scene {
    fn with_containers(count: usize) -> Scene {
        let host = Host::new();
        let network = Arc::new(host.open("t"));
        let mut scene = Scene { host, network, containers: Vec::new() };
        (1..=count).for_each(|n| scene.add(&format!("{n}.1")));
        scene
    }

    fn add(&mut self, key: &str) {
        let space = Space::new();
        let attachment = self.attach(key, space.pid).expect("attaches");
        self.containers.push((space, attachment));
    }

    fn attach(&self, key: &str, pid: i32) -> Result<Attachment, Error> {
        let key = key.to_owned();
        self.host.with(&self.network, async move |network| network.attach(&key, pid).await)
    }

    fn detach(&self, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.host.with(&self.network, async move |network| network.detach(&key).await)
    }

    fn close(self) -> Host {
        let network = Arc::into_inner(self.network).expect("no one else holds it");
        self.host.space.run(move || space::block_on(network.close())).expect("closes");
        self.host
    }
}

/// Listens in `server`, connects from `client`, sends a word and has it echoed. Returns whom the
/// server saw, or the client's error. Sockets belong to the namespace they were made in, so only
/// their making happens inside.
fn converse(client: &Space, server: &Space, address: IpAddr, port: u16) -> io::Result<SocketAddr> {
    let patience = Duration::from_secs(2);
    let listener = server.run(move || TcpListener::bind((address, port))).expect("listens");
    let near = client.run(move || TcpStream::connect_timeout(&(address, port).into(), patience))?;
    let (far, peer) = listener.accept()?;
    let mut word = [0; 4];
    for (mut from, mut to) in [(&near, &far), (&far, &near)] {
        to.set_read_timeout(Some(patience))?;
        from.write_all(b"ping")?;
        to.read_exact(&mut word)?;
    }
    assert_eq!(&word, b"ping");
    Ok(peer)
}
