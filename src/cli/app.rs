//! `nodectl app ls` and `app rm`.

use super::args::{AppRmArguments, OutputOnly};
use super::client::{Client, request};
use super::failure::from_status;
use super::output::Out;
use super::views::{self, NodeNames};
use crate::proto::v1::{AppRequest, ListAppsRequest};

pub async fn list(args: OutputOnly, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = ListAppsRequest::default();
    let reply = client.apps().await?.list(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        // This answer has no nodes: instances carry their node's id.
        let apps = reply.apps.iter().map(|app| views::App::new(app, &NodeNames::new())).collect();
        return out.json(&views::AppList { apps });
    }
    super::status::show_all(&out, &reply.apps)
}

pub async fn remove(args: AppRmArguments, client: Client) -> anyhow::Result<()> {
    let out = Out::new(args.output);
    let message = AppRequest { tenant: String::new(), app: args.app.clone() };
    let reply = client.apps().await?.remove(request(message)).await.map_err(from_status)?.into_inner();
    if out.is_json() {
        return out.json(&views::Change { target: args.app, changed: reply.changed, index: reply.index });
    }
    if !reply.changed {
        return out.line(format!("{} is being removed already", args.app));
    }
    out.line(format!("removing {}: its instances stop, then it is forgotten", args.app))?;
    out.next("nodectl image gc");
    Ok(())
}
