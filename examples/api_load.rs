//! Durable writes from N clients at once, each on a connection of its own and each waiting for
//! its answer: what `bench/writes.py` runs.
//!
//! `api_load nodectl SOCKET SECONDS CLIENTS`: Scale of an app of the client's own, to and fro.
//! The apps `load0`, `load1`, … are there and stopped, so the write is all there is to do.
//! `api_load etcd ADDRESS SECONDS CLIENTS`: Put of a key of the client's own.
//!
//! Prints `writes/s median-us p99-us`.

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use nodectl::proto::v1;
use nodectl::proto::v1::apps_client::AppsClient;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as our command is in the log, tenant, app and caller included.
const VALUE_BYTES: usize = 64;

/// etcd's etcdserverpb.PutRequest, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

enum Client {
    Nodectl(AppsClient<Channel>, String),
    Etcd(tonic::client::Grpc<Channel>, String),
}

impl Client {
    async fn open(kind: &str, address: &str, number: usize) -> anyhow::Result<Self> {
        match kind {
            "nodectl" => {
                let socket = address.to_owned();
                let connect = tower::service_fn(move |_| {
                    let socket = socket.clone();
                    async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                });
                let endpoint = Endpoint::from_static("http://nodectl.internal");
                let channel = endpoint.connect_with_connector(connect).await?;
                Ok(Self::Nodectl(AppsClient::new(channel), format!("load{number}")))
            }
            "etcd" => {
                let channel = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect().await?;
                Ok(Self::Etcd(tonic::client::Grpc::new(channel), format!("load{number}")))
            }
            _ => bail!("nodectl or etcd, not {kind}"),
        }
    }

    async fn write(&mut self, n: u64) -> anyhow::Result<()> {
        match self {
            Self::Nodectl(client, app) => {
                let counts = [("web".to_owned(), 1 + (n % 2) as u32)].into();
                let request = v1::ScaleRequest { app: app.clone(), counts, ..Default::default() };
                if !client.scale(request).await?.into_inner().changed {
                    bail!("a write changed nothing");
                }
            }
            Self::Etcd(client, key) => {
                let mut value = n.to_le_bytes().to_vec();
                value.resize(VALUE_BYTES, b'x');
                let request = PutRequest { key: key.clone().into_bytes(), value };
                client.ready().await?;
                let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Put");
                let codec = tonic_prost::ProstCodec::<PutRequest, PutResponse>::default();
                client.unary(tonic::Request::new(request), path, codec).await?;
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, address, seconds, clients] = &args[..] else {
        bail!("usage: api_load nodectl|etcd ADDRESS SECONDS CLIENTS");
    };
    let (each, clients) = (Duration::from_secs_f64(seconds.parse()?), clients.parse::<usize>()?);
    let mut open = Vec::new();
    for number in 0..clients {
        let mut client = Client::open(kind, address, number).await.context("could not connect")?;
        // Counts are 1 now: the first measured write, n = 1, changes that.
        client.write(1).await.or_else(|error| if kind == "nodectl" { Ok(()) } else { Err(error) })?;
        client.write(0).await.or_else(|error| if kind == "nodectl" { Ok(()) } else { Err(error) })?;
        open.push(client);
    }
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in open {
        tasks.spawn(async move {
            let mut took = Vec::new();
            while begin.elapsed() < each {
                let asked = Instant::now();
                client.write(took.len() as u64 + 1).await?;
                took.push(asked.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        took.extend(done??);
    }
    let rate = took.len() as f64 / begin.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    println!("{rate:.0} {} {}", at(0.5), at(0.99));
    Ok(())
}
